//! The main loop: signals, questions, reloads, the watchdog, and the end.

use std::{pin::Pin, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, Start, answers,
    build::{Built, Rooms, build},
    load,
    stop::stop,
    triggers::Triggers,
};
use crate::{
    bus::{ConfigReport, Question},
    clock,
    diagnostics::Restart,
    model::{event::Event, view::ConfigStatus},
    systemd,
    tasks::Tasks,
};

/// Threads for file reads and fetches that block; readers of the store are among them.
const BLOCKING_THREADS: usize = 16;

/// Runs the daemon until the init system or a person ends it.
pub fn run(start: Start) -> Result<(), Failure> {
    // Whatever is written from here on is for this user alone; the control socket opens itself to its group.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("headgate")
        .build()
        .map_err(|error| Failure::Start(error.into()))?;
    runtime.block_on(async {
        let mut daemon = Daemon::start(start).await.map_err(Failure::Start)?;
        daemon.announce().await;
        let outcome = daemon.serve(Box::pin(terminated())).await;
        daemon.stop(terminated()).await;
        outcome
    })
}

/// Resolves on SIGTERM or SIGINT.
async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// A running gateway. Both ends of its life are in the hands of whoever started it.
pub struct Daemon {
    built: Built,
    start: Start,
    report: ConfigReport,
    triggers: Triggers,
}

impl Daemon {
    /// Builds all rooms; where this returns, everything listens.
    pub async fn start(start: Start) -> anyhow::Result<Daemon> {
        let built = build(&start.config, start.folder.clone(), start.logs.clone()).await?;
        let triggers = Triggers::new(start.folder.as_deref())?;
        let report = ConfigReport {
            loaded: Some(clock::now()),
            folder: start.folder.as_ref().map(|folder| folder.display().to_string()),
            problems: Vec::new(),
            changes: Vec::new(),
        };
        let daemon = Daemon { built, start, report, triggers };
        daemon.say_ready();
        Ok(daemon)
    }

    pub fn rooms(&self) -> &Rooms {
        &self.built.rooms
    }

    /// The tasks that poll and observe devices.
    pub fn drivers(&self) -> Tasks {
        self.built.stages.drivers.clone()
    }

    /// Addresses of the page, as to be typed into a browser.
    pub fn urls(&self) -> Vec<String> {
        self.built.web.iter().flat_map(|web| web.urls()).collect()
    }

    /// Serves until `ended` resolves, something vital dies, or a restart was ordered.
    pub async fn serve(&mut self, mut ended: Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<(), Failure> {
        let pace = systemd::watchdog().unwrap_or(Duration::from_secs(20)) / 3;
        let mut watchdog = tokio::time::interval(pace.max(Duration::from_millis(100)));
        let supervisor = self.rooms().supervisor.clone();
        let death = supervisor.vital_death();
        tokio::pin!(death);
        loop {
            tokio::select! {
                () = &mut ended => return Ok(()),
                reason = &mut death => return Err(Failure::Died(reason)),
                Some(question) = self.built.questions.recv() => self.answer(question).await,
                trigger = self.triggers.next() => {
                    tracing::info!(?trigger, "loading the configuration again");
                    self.reload().await;
                }
                () = self.built.drivers.life_moved() => self.built.drivers.follow_lives(&self.start.config).await,
                Some(restart) = self.built.restarts.recv() => {
                    self.restart(restart);
                    return Ok(());
                }
                _ = watchdog.tick() => {
                    let rooms = self.rooms().clone();
                    self.built.stages.web.spawn("watchdog", async move { rooms.feed_watchdog().await });
                }
            }
        }
    }

    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        stop(self.built, hurry).await;
    }

    async fn answer(&mut self, question: Question) {
        match question {
            Question::Config(reply) => drop(reply.send(Ok(self.report.clone()))),
            Question::Reload(reply) => {
                self.reload().await;
                drop(reply.send(Ok(self.report.clone())));
            }
            question => {
                let status = ConfigStatus { loaded: self.report.loaded, problems: self.report.problems.len() };
                let rooms = self.rooms().clone();
                self.built.stages.web.spawn("answer", answers::answer(rooms, status, question));
            }
        }
    }

    /// Loads, checks, plans and applies, all or nothing. A bad configuration leaves the old one running.
    async fn reload(&mut self) {
        systemd::reloading();
        match load::load(self.start.folder.as_deref()) {
            Ok(new) => match self.built.apply(&self.start.config, &new).await {
                Ok(changes) => {
                    for change in &changes {
                        tracing::info!(change, "configuration");
                    }
                    self.start.config = new;
                    self.report.loaded = Some(clock::now());
                    self.report.problems.clear();
                    self.report.changes = changes;
                }
                Err(refused) => {
                    for problem in &refused {
                        tracing::warn!(%problem, "this change needs a restart; the old configuration runs on");
                    }
                    self.report.problems = refused;
                }
            },
            Err(problems) => {
                for problem in &problems {
                    tracing::warn!(%problem, "configuration refused; the old one runs on");
                }
                self.report.problems = problems;
            }
        }
        self.built.events.tell(Event::Config { problems: self.report.problems.len() });
        self.say_ready();
    }

    /// Says what is up to the person at the terminal.
    async fn announce(&self) {
        for url in self.urls() {
            tracing::info!(url, "page");
        }
        match self.rooms().identity.first_code().await {
            Ok(Some((code, _))) => eprintln!(
                "\nNobody can log in to the page yet. The first login takes this code, once, within 24 hours:\n\n    {}\n",
                code.expose()
            ),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no first login code"),
        }
    }

    fn say_ready(&self) {
        let problems = self.report.problems.len();
        let status = match problems {
            0 => format!("gateway {}: running", self.start.config.gateway.id),
            n => format!(
                "gateway {}: running an older configuration; the new one has {n} problems",
                self.start.config.gateway.id
            ),
        };
        systemd::ready(&status);
    }

    fn restart(&self, restart: Restart) {
        tracing::warn!(?restart, "restart ordered");
        if restart == Restart::Gateway {
            // Refused where the unit does not allow it; the service itself ends in any case and is started again.
            if let Err(error) = std::process::Command::new("systemctl").arg("reboot").spawn() {
                tracing::error!(%error, "the machine could not be restarted");
            }
        }
    }
}
