//! The stages of a job's rollout: how many devices each covers, how many of them may fail, when the next one begins, and
//! how the last one ends the job.

use super::Plan;
use crate::model::{
    jobs::{JobStatus, Target, TargetStatus},
    time::Millis,
};

impl Plan {
    /// The first devices of the list, as many as the stage covers.
    pub fn stage_size(&self) -> usize {
        let total = self.job.targets.len();
        let stage = self.definition.stages.get(self.job.state.stage);
        let share = stage.map_or(1.0, |stage| stage.percent / 100.0);
        ((total as f64 * share).ceil() as usize).clamp(usize::from(total > 0), total)
    }

    /// The share of failures, where it is above what the stage allows whatever the rest of the stage may bring.
    pub(super) fn too_many_failed(&self) -> Option<f64> {
        let size = self.stage_size();
        let most = self.definition.stages.get(self.job.state.stage)?.max_error_rate;
        let failed =
            self.job.targets[..size].iter().filter(|t| t.status == TargetStatus::Failed && !t.forgiven).count();
        let rate = failed as f64 / size.max(1) as f64;
        (rate > most).then_some(rate)
    }

    pub(super) fn forgive(&mut self) {
        for (index, target) in self.job.targets.iter_mut().enumerate() {
            if target.status == TargetStatus::Failed && !target.forgiven {
                target.forgiven = true;
                self.touched.insert(index);
            }
        }
    }

    pub(super) fn stage_is_done(&self) -> bool {
        let ended = |t: &Target| !matches!(t.status, TargetStatus::Queued | TargetStatus::InProgress);
        self.job.targets[..self.stage_size()].iter().all(ended)
    }

    pub(super) fn next_stage(&mut self, now: Millis) {
        let stage = self.definition.stages.get(self.job.state.stage).copied();
        let last = self.job.state.stage + 1 >= self.definition.stages.len();
        if let (Some(stage), false) = (stage, last)
            && stage.soak > 0
            && self.job.state.soak_until.is_none()
        {
            self.job.state.soak_until = Some(now.plus(stage.soak));
            self.mark(now);
            return;
        }
        self.job.state.soak_until = None;
        if !last {
            self.job.state.stage += 1;
            self.mark(now);
            return;
        }
        let failed = self.job.targets.iter().filter(|t| t.status == TargetStatus::Failed).count();
        let succeeded = self.job.targets.iter().filter(|t| t.status == TargetStatus::Succeeded).count();
        match (failed, succeeded, self.job.targets.len()) {
            (_, _, 0) => self.enter(JobStatus::Failed, Some("no device matches the filter".into()), now),
            (0, 0, _) => self.enter(JobStatus::Failed, Some("every device was skipped".into()), now),
            (0, _, _) => self.enter(JobStatus::Succeeded, None, now),
            (n, _, of) => self.enter(JobStatus::Failed, Some(format!("{n} of {of} devices failed")), now),
        }
    }
}
