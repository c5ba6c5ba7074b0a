//! Records on their way in: many in one job, answered on the writer's thread after the commit.

use super::{Store, StoreError};
use crate::model::record::NewRecord;

impl Store {
    /// Appends records in order; `then` runs on the writer's thread after the commit. Returns when queued.
    pub async fn append_then(
        &self,
        records: Vec<NewRecord>,
        then: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let work = move |writer: &mut super::Writer| {
            records.into_iter().try_for_each(|record| writer.append(record).map(drop))
        };
        self.write_then(work, then).await
    }
}
