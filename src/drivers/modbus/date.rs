//! Date and time blocks of devices to ISO 8601 text and back.

use jiff::{Timestamp, civil::DateTime};

use crate::config::modbus::kind::Date;

/// `None` where the registers are no date.
pub(super) fn decode(date: Date, words: &[u16]) -> Option<String> {
    match (date, words) {
        (Date::Unix32, [high, low]) => {
            let seconds = u32::from(*high) << 16 | u32::from(*low);
            Timestamp::from_second(i64::from(seconds)).ok().map(|t| t.to_string())
        }
        (Date::Ymdhms, [year, month, day, hour, minute, second]) => {
            let part = |word: &u16| i8::try_from(*word).ok();
            let year = i16::try_from(*year).ok()?;
            let year = if year < 100 { 2000 + year } else { year };
            let (month, day, hour) = (part(month)?, part(day)?, part(hour)?);
            DateTime::new(year, month, day, hour, part(minute)?, part(second)?, 0).ok().map(|d| d.to_string())
        }
        (Date::Iec870, [year, month_day, hour_minute, millis]) => {
            // Week day in the upper three bits of the day, flags in the upper bits of hour and minute.
            let [month, day] = month_day.to_be_bytes();
            let [hour, minute] = hour_minute.to_be_bytes();
            let second = i8::try_from(millis / 1000).ok()?;
            let nanos = i32::from(millis % 1000) * 1_000_000;
            let (year, month) = (2000 + (year & 0x7F) as i16, (month & 0x0F) as i8);
            let (day, hour, minute) = ((day & 0x1F) as i8, (hour & 0x1F) as i8, (minute & 0x3F) as i8);
            DateTime::new(year, month, day, hour, minute, second, nanos).ok().map(|d| d.to_string())
        }
        _ => None,
    }
}

/// `None` where the text is no date the block can hold.
pub(super) fn encode(date: Date, text: &str) -> Option<Vec<u16>> {
    match date {
        Date::Unix32 => {
            let second = text.parse::<Timestamp>().ok()?.as_second();
            let second = u32::try_from(second).ok()?;
            Some(vec![(second >> 16) as u16, second as u16])
        }
        Date::Ymdhms => {
            let d: DateTime = text.parse().ok()?;
            let year = u16::try_from(d.year()).ok()?;
            let rest = [d.month(), d.day(), d.hour(), d.minute(), d.second()];
            Some(std::iter::once(year).chain(rest.iter().map(|n| n.unsigned_abs().into())).collect())
        }
        Date::Iec870 => {
            let d: DateTime = text.parse().ok()?;
            let year = u16::try_from(d.year() - 2000).ok().filter(|y| *y < 128)?;
            let weekday = u16::from(d.weekday().to_monday_one_offset().unsigned_abs());
            let byte = |n: i8| u16::from(n.unsigned_abs());
            let millis = byte(d.second()) * 1000 + d.millisecond().unsigned_abs();
            Some(vec![
                year,
                byte(d.month()) << 8 | weekday << 5 | byte(d.day()),
                byte(d.hour()) << 8 | byte(d.minute()),
                millis,
            ])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_gives_back_what_was_put_in() {
        let local = "2025-01-31T23:59:58".to_owned();
        for (date, text) in
            [(Date::Ymdhms, local.as_str()), (Date::Iec870, local.as_str()), (Date::Unix32, "2025-01-31T23:59:58Z")]
        {
            let words = encode(date, text).expect("encodes");
            assert_eq!(decode(date, &words).as_deref(), Some(text));
        }
        assert_eq!(decode(Date::Ymdhms, &[2025, 13, 1, 0, 0, 0]), None);
        assert_eq!(decode(Date::Iec870, &[0, 0, 0, 0]), None);
    }
}
