//! Records on their way in: many in one job, answered on the writer's thread after the commit.

use super::{Store, StoreError};
use crate::{bus::Mark, model::record::NewRecord};

impl Store {
    /// Appends records in order, and the marks of those that came with QoS 2; `then` runs on the writer's thread after the commit. Returns when queued.
    pub async fn append_then(
        &self,
        records: Vec<NewRecord>,
        marks: Vec<Mark>,
        then: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let work = move |writer: &mut super::Writer| {
            writer.mark(&marks)?;
            records.into_iter().try_for_each(|record| writer.append(record).map(drop))
        };
        self.write_then(work, then).await
    }
}
