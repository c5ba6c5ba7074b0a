//! Alarms by rule: readings and their absence against `[[rule]]`, one alarm per device and rule, kept in the database.

mod judge;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use self::judge::{Change, Judge};
use crate::{
    bus::{Events, WORK},
    clock,
    config::rules::Rule,
    model::{
        alarm::{self, Alarm},
        event::Event,
        ids::DeviceId,
        reading::Reading,
    },
    store::{Store, StoreError, alarms::AlarmStep},
    tasks::Tasks,
};

/// How often silence and holding conditions are looked at.
const BEAT: Duration = Duration::from_secs(1);

/// What the room is wired to.
pub struct Ports {
    /// Held on the other side by the keeper, as [`crate::bus::Readings`].
    pub readings: watch::Sender<Option<mpsc::Sender<Arc<Reading>>>>,
    pub events: Events,
    pub store: Store,
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Alarms(Store);

impl Alarms {
    /// Active ones first, then the latest.
    pub async fn list(&self) -> Result<Vec<Alarm>, StoreError> {
        self.0.alarms().await
    }

    /// Somebody has seen it. `None` where there is no such alarm, or it was acknowledged before.
    pub async fn acknowledge(&self, device: &DeviceId, kind: &str, by: &str) -> Result<Option<Alarm>, StoreError> {
        self.0.step_alarm(device, kind, AlarmStep::Acknowledge { by: by.to_owned() }, clock::now()).await
    }
}

/// Starts the task, which follows `wanted` while it runs. Alarms whose rule is gone are cleared: nothing else would
/// ever do it.
pub async fn start(
    mut wanted: watch::Receiver<Arc<Vec<Rule>>>,
    ports: Ports,
    tasks: &Tasks,
) -> Result<Alarms, StoreError> {
    let Ports { readings: told, events, store } = ports;
    let rules = wanted.borrow_and_update().to_vec();
    let (to_us, mut readings) = mpsc::channel(WORK);
    let listen = move |rules: &[Rule]| drop(told.send_replace((!rules.is_empty()).then(|| to_us.clone())));
    listen(&rules);
    let mut active = Vec::new();
    let by_rule = |alarm: &Alarm| alarm.active && !alarm::OWN.contains(&alarm.kind.as_str());
    for alarm in store.alarms().await?.into_iter().filter(by_rule) {
        if rules.iter().any(|rule| rule.name == alarm.kind) {
            active.push((alarm.device, alarm.kind));
        } else {
            store.step_alarm(&alarm.device, &alarm.kind, AlarmStep::Clear, clock::now()).await?;
        }
    }
    let (mut judge, began, stop) = (Judge::new(rules, &active, Duration::ZERO), Instant::now(), tasks.stopping());
    let alarms = Alarms(store.clone());
    tasks.spawn("rules", async move {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Steps that the disk refused, in order; tried again before any newer one.
        let mut waiting: VecDeque<Change> = VecDeque::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                reading = readings.recv() => match reading {
                    Some(reading) => waiting.extend(judge.reading(&reading, began.elapsed())),
                    None => return,
                },
                Ok(()) = wanted.changed() => {
                    let rules = wanted.borrow_and_update().to_vec();
                    listen(&rules);
                    waiting.extend(judge.change_rules(rules, began.elapsed()));
                }
                _ = beat.tick() => waiting.extend(judge.tick(began.elapsed())),
            }
            while let Some(change) = waiting.front() {
                if let Err(error) = write(&store, &events, change).await {
                    tracing::warn!(%error, waiting = waiting.len(), "alarms not written; tried again");
                    break;
                }
                waiting.pop_front();
            }
        }
    });
    Ok(alarms)
}

async fn write(store: &Store, events: &Events, change: &Change) -> Result<(), StoreError> {
    let now = clock::now();
    let step = match &change.raised {
        Some(text) => AlarmStep::Raise { severity: change.severity, text: text.clone() },
        None => AlarmStep::Clear,
    };
    if let Some(alarm) = store.step_alarm(&change.device, &change.rule, step, now).await? {
        let text = if alarm.active { alarm.text } else { format!("{}: cleared", alarm.kind) };
        tracing::info!(device = %alarm.device, rule = alarm.kind, active = alarm.active, text, "alarm");
        events.tell(Event::Alarm { device: alarm.device, severity: alarm.severity, text, at: now });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::rules::When,
        model::{
            event::Severity,
            reading::{Sample, Value},
            time::Millis,
        },
    };

    #[tokio::test]
    async fn an_alarm_reaches_the_database_and_those_who_watch_and_ends_with_its_rule() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _thread) = Store::open(folder.path()).expect("store");
        let (tasks, events) = (Tasks::new(), Events::new());
        let (mut watch, device) = (events.watch(), DeviceId::new("oven").expect("id"));
        let (readings, keeper) = watch::channel(None);
        let hot = Rule {
            name: "hot".into(),
            device: None,
            value: "t".into(),
            when: When::Above { limit: 80.0, clear: 75.0 },
            hold: Duration::ZERO,
            severity: Severity::Critical,
        };
        let ports = Ports { readings, events: events.clone(), store: store.clone() };
        let alarms = start(watch::channel(Arc::new(vec![hot])).1, ports, &tasks).await.expect("start");
        let samples = vec![Sample::good("t", Value::Float(99.0))];
        let reading = Reading { device: device.clone(), ts: Millis(0), samples };
        let to_rules = keeper.borrow().clone().expect("there is a rule");
        to_rules.send(Arc::new(reading)).await.expect("open");
        let Ok(Event::Alarm { severity, text, .. }) = watch.recv().await else { panic!("no alarm") };
        assert_eq!((severity, text.as_str()), (Severity::Critical, "t is 99, above 80"));
        alarms.acknowledge(&device, "hot", "ada").await.expect("stored").expect("acknowledged");
        tasks.stop_and_wait().await;
        let (readings, keeper) = watch::channel(None);
        let ports = Ports { readings, events, store };
        let (_rules, wanted) = watch::channel(Arc::default());
        let alarms = start(wanted, ports, &Tasks::new()).await.expect("start");
        assert!(keeper.borrow().is_none(), "no rule, no readings");
        let list = alarms.list().await.expect("read");
        assert_eq!((list[0].active, list[0].acknowledged, list[0].count), (false, true, 1));
    }
}
