//! `headgate profile import`: a maker's register table (CSV) as a profile. Makers' own words for types, access and places
//! are understood; what had to be guessed is said in a comment at its register.

use super::{
    columns::{Column, Sheet},
    register::Writer,
    words::first_number,
};
use crate::config::modbus::profile::Profile;

/// The source of a table that came without one.
pub(super) const UNNAMED: &str = "imported table; name its document";

/// What a person says about the table.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    pub name: String,
    pub title: Option<String>,
    pub maker: Option<String>,
    pub source: Option<String>,
}

/// The profile, and what its reader should know about how it came to be.
#[derive(Debug)]
pub(super) struct Imported {
    pub profile: String,
    pub remarks: Vec<String>,
}

/// A table as a profile. `Err` where the heading does not tell enough.
pub(super) fn import(text: &str, about: &About) -> Result<Imported, String> {
    let sheet = Sheet::read(text)?;
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let or = |text: &Option<String>, else_: &str| quoted(text.as_deref().unwrap_or(else_));
    let name = &about.name;
    let mut profile = format!(
        "name = {}\ntitle = {}\nmaker = {}\nkind = \"other\"\nversion = 1\nsource = {}\n",
        quoted(name),
        or(&about.title, name),
        or(&about.maker, ""),
        or(&about.source, UNNAMED)
    );
    let mut writer = Writer { sheet: &sheet, names: Vec::new(), guesses: 0 };
    let mut left_out = Vec::new();
    for line in &sheet.lines {
        let place =
            [Column::Reference, Column::Register, Column::Address].into_iter().find_map(|c| sheet.cell(line, c));
        match (sheet.cell(line, Column::Name), place) {
            (Some(title), Some(place)) if !first_number(place).is_empty() => writer.register(&mut profile, title, line),
            // Lines between the blocks of a table have a title and no place.
            (Some(title), _) => left_out.push(title),
            _ => {}
        }
    }
    let mut remarks = vec![format!("{} registers from {} lines", writer.names.len(), sheet.lines.len())];
    if !left_out.is_empty() {
        remarks.push(format!("no address, left out: {}", left_out.join(", ")));
    }
    if !sheet.unknown().is_empty() {
        remarks.push(format!("columns that were not used: {}", sheet.unknown().join(", ")));
    }
    match writer.guesses {
        0 => {}
        1 => remarks.push("1 guess; it is marked with # in the profile".into()),
        guesses => remarks.push(format!("{guesses} guesses; each is marked with # in the profile")),
    }
    let (_, problems) = Profile::parse(&format!("{name}.toml"), &profile);
    remarks.extend(problems.iter().map(ToString::to_string));
    Ok(Imported { profile, remarks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::{
        kind::{Date, Kind, Table},
        point::Access,
    };

    fn of(table: &str, name: &str) -> String {
        let about = About { name: name.into(), ..About::default() };
        import(table, &about).expect("a table").profile
    }

    fn parsed(table: &str) -> Profile {
        let text = of(table, "imported");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{text}\n{problems:#?}");
        profile.expect("a profile")
    }

    #[test]
    fn an_imported_table_is_a_profile_without_problems() {
        let table =
            "Name;Address;Type;Scale;Unit;About\nvoltage;0;u16;0,1;V;\"phase; to neutral\"\nenergy;0x10;u32;1;kWh;\n";
        let text = of(table, "my-meter");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{problems:#?}");
        let profile = profile.expect("a profile");
        assert_eq!((profile.points[0].scale, profile.points[1].address), (0.1, 16));
        assert!(import("a,b\n1,2\n", &About::default()).is_err());
    }

    #[test]
    fn a_makers_own_table_is_understood() {
        let table = "Register,Parameter,Format,Factor,Unit,R/W,Min,Max,Remarks\n\
                     Measured values,,,,,,,,\n\
                     40002-40003,Serial no.,UINT32,,,R,,,\n\
                     40004,Firmware,CHAR[12],,,R,,,\n\
                     40101,Flow temperature,FLOAT,,°C,R,,,low word first\n\
                     40105,Flow,INT16,1/100,m³/h,R,,,0x8000 = sensor fault\n\
                     40201,Set point,INT16,0.1,°C,R/W,5,30,\n\
                     40202,Mode,UINT16,,,RW,,,\"0 off, 1 auto, 2 manual\"\n\
                     30001,Inlet,WORD,x 0.1,bar,RO,,,\n\
                     00001,Reset energy,BOOL,,,W,,,\n";
        let text = of(table, "hx-40");
        let (profile, problems) = Profile::parse("imported", &text);
        assert!(problems.is_empty(), "{text}\n{problems:#?}");
        let profile = profile.expect("a profile");
        let point = |name: &str| profile.point(name).unwrap_or_else(|| panic!("{name}: {text}"));
        assert_eq!((point("serialNo").address, point("serialNo").kind), (1, Kind::Uint(32)));
        assert_eq!(point("firmware").kind, Kind::Text(6));
        let flow = point("flowTemperature");
        assert_eq!((flow.kind, flow.order.name(), flow.unit.as_deref()), (Kind::Float(32), "CDAB", Some("°C")));
        assert_eq!((point("flow").scale, point("flow").titles.len()), (0.01, 0));
        assert_eq!((point("setPoint").access, point("setPoint").write.max), (Access::ReadWrite, Some(30.0)));
        assert_eq!(point("mode").titles.iter().map(|(n, t)| (*n, &**t)).nth(2), Some((2, "manual")));
        assert_eq!((point("inlet").table, point("inlet").address, point("inlet").scale), (Table::Input, 0, 0.1));
        assert_eq!((point("resetEnergy").table, point("resetEnergy").access), (Table::Coil, Access::WriteOnly));
    }

    // Five makers' tables as they come out of their documents, with the words, signs and habits of each.

    #[test]
    fn a_table_of_carlo_gavazzi_has_its_scale_in_the_notes() {
        let profile = parsed(
            "Modicon address;Physical address;Length (words);VARIABLE ENG. UNIT;Data Format;Notes\n\
             300001;0000h;2;V L1-N;INT32;Value weight: Volt*10\n300019;0012h;2;W L1;INT32;Value weight: Watt*10\n\
             300052;0033h;1;Hz;INT16;Value weight: Hz*10\n300053;0034h;2;kWh (+) TOT;INT32;Value weight: kWh*10\n",
        );
        let voltage = profile.point("vL1N").expect("a voltage");
        assert_eq!((voltage.table, voltage.address, voltage.kind), (Table::Input, 0, Kind::Int(32)));
        assert_eq!((voltage.scale, voltage.unit.as_deref()), (0.1, Some("V")));
        assert_eq!(profile.point("kWhTot").and_then(|p| p.unit.clone()).as_deref(), Some("kWh"));
    }

    #[test]
    fn a_table_of_lovato_has_its_scale_in_the_unit() {
        let profile = parsed(
            "Address;Words;Measure;Unit;Format\n0x0002;2;L1 phase voltage;V / 100;Unsigned long\n\
             0x0008;2;L1 current;A/10000;Unsigned long\n0x0040;2;Flow;m³/h;Signed long\n",
        );
        let scaled = |name: &str| profile.point(name).map(|p| (p.scale, p.unit.clone().unwrap_or_default()));
        assert_eq!(scaled("l1PhaseVoltage"), Some((0.01, "V".into())));
        assert_eq!(scaled("l1Current"), Some((0.0001, "A".into())));
        assert_eq!(scaled("flow"), Some((1.0, "m³/h".into())));
    }

    #[test]
    fn a_table_of_huawei_divides_by_its_gain() {
        let profile = parsed(
            "No.,Signal Name,Read/Write,Type,Unit,Gain,Address,Quantity,Scope\n1,Model,RO,STR,N/A,1,30000,15,\n\
             23,State 1,RO,Bitfield16,N/A,1,32000,1,\"Bit 0: standby, Bit 1: grid-connected\"\n\
             32,PV1 current,RO,I16,A,100,32017,1,\n77,Internal temperature,RO,I16,℃,10,32087,1,\n\
             79,Device status,RO,E16,N/A,1,32089,1,\"0x0000: Standby: initializing\n0x0001: Standby: detecting\n0x0200: On-grid\"\n\
             90,System time,RW,EPOCHTIME,N/A,1,40000,2,[946684800~3155759999]\n\
             91,Power derating,RW,I16,%,10,40125,1,\"[-100.0, 100.0]\"\n",
        );
        let point = |name: &str| profile.point(name).unwrap_or_else(|| panic!("{name}: {profile:#?}"));
        assert_eq!((point("model").kind, point("model").unit.as_deref()), (Kind::Text(15), None));
        assert_eq!((point("pv1Current").scale, point("pv1Current").address), (0.01, 32017));
        assert_eq!(point("internalTemperature").unit.as_deref(), Some("°C"));
        let titles: Vec<(i64, &str)> = point("deviceStatus").titles.iter().map(|(n, t)| (*n, &**t)).collect();
        assert_eq!(titles, [(0, "Standby: initializing"), (1, "Standby: detecting"), (0x200, "On-grid")]);
        assert!(point("state1").titles.is_empty());
        assert_eq!(point("systemTime").kind, Kind::Date(Date::Unix32));
        assert_eq!((point("powerDerating").write.min, point("powerDerating").write.max), (Some(-100.0), Some(100.0)));
    }

    #[test]
    fn an_export_of_nibe_begins_below_its_preamble() {
        let profile = parsed(
            "ModbusManager 1.0.9\n20200624\nProduct: F1155,F1255\nTitle;Info;ID;Unit;Size;Factor;Min;Max;Default;Mode;\n\
             \"BT1 Outdoor Temperature\";\"\";\"40004\";\"°C\";\"s16\";\"10\";\"0\";\"0\";\"0\";\"R\";\n\
             \"Prio\";\"10 = Off 20 = Hot Water 30 = Heat\";\"43086\";\"\";\"u8\";\"1\";\"0\";\"0\";\"0\";\"R\";\n\
             \"Start temperature HW Normal\";\"\";\"47044\";\"°C\";\"s16\";\"10\";\"50\";\"700\";\"450\";\"R/W\";\n",
        );
        let outdoor = profile.point("bt1OutdoorTemperature").expect("a temperature");
        assert_eq!((outdoor.address, outdoor.kind, outdoor.scale), (40004, Kind::Int(16), 0.1));
        let titles: Vec<(i64, &str)> = profile.points[1].titles.iter().map(|(n, t)| (*n, &**t)).collect();
        assert_eq!(titles, [(10, "Off"), (20, "Hot Water"), (30, "Heat")]);
        assert_eq!((profile.points[2].write.min, profile.points[2].write.max), (Some(5.0), Some(70.0)));
    }

    #[test]
    fn tables_of_schneider_and_siemens_keep_their_words_for_types() {
        let profile = parsed(
            "Address,Register,Action (R/W/WC),Size,Type,Units,Range,Description\n0x001D,30,R,20,UTF8,-,-,Meter Name\n\
             0x0079,132,R,4,DATETIME,-,-,Date and time\n0x0BD3,3028,R,2,Float32,V,-,Voltage L1–N\n",
        );
        assert_eq!((profile.points[0].kind, profile.points[0].unit.as_deref()), (Kind::Text(20), None));
        assert_eq!(profile.points[1].kind, Kind::Date(Date::Iec870));
        assert_eq!((profile.points[2].address, profile.points[2].kind), (3027, Kind::Float(32)));
        let profile = parsed(
            "Offset;Number of registers;Name;Format;Unit;Value range;Access\n1;2;Voltage a-n;Float;V;-;R\n\
             207;2;Digital inputs;Unsigned long;-;Byte 3 Bit 0: input 0;R\n801;4;Active energy import tariff 1;Double;Wh;Overflow 1.0e+12;RW\n",
        );
        assert_eq!((profile.points[0].address, profile.points[0].offset), (1, 0.0));
        assert_eq!((profile.points[1].kind, profile.points[2].kind), (Kind::Uint(32), Kind::Float(64)));
    }
}
