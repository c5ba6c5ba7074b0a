//! From an order to a verified image in the cache, once per digest: cached, or room made, fetched and admitted.

use std::sync::{Arc, atomic::AtomicU64};

use tokio_util::sync::CancellationToken;

use super::{
    cache::{Cache, CacheError, Image, Limits},
    fetch::{Errand, FetchError, fetch},
    verify::Digest,
};
use crate::{
    clock,
    config::updates::Updates as Config,
    model::update::UpdateOrder,
    store::{Store, artifacts::Artifact},
};

/// What is needed to get one image.
pub struct Obtain {
    pub digest: Digest,
    pub order: UpdateOrder,
    /// Id of the key that signed it.
    pub key: String,
    /// Images that may be removed to make room are all but these.
    pub pinned: Vec<Digest>,
    /// Bytes that other fetches will still take.
    pub reserved: u64,
    pub done: Arc<AtomicU64>,
    pub stop: CancellationToken,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Worth another try later.
    Later(String),
    /// No further try can help.
    Never(String),
    Stopped,
}

impl Obtain {
    pub async fn run(self, cache: Arc<Cache>, store: Store, config: Config) -> Result<(), Missing> {
        let later = |e: &dyn std::fmt::Display| Missing::Later(e.to_string());
        let artifacts = store.artifacts().await.map_err(|e| later(&e))?;
        let pinned = &self.pinned;
        let spare: Vec<Digest> = (artifacts.iter().filter_map(|a| Digest::parse(&a.sha256)))
            .filter(|digest| !pinned.contains(digest) && *digest != self.digest)
            .collect();
        let (digest, key) = (self.digest, self.key.clone());
        let work = tokio::task::spawn_blocking(move || self.block(&cache, &config, &spare));
        let (image, removed) = work.await.map_err(|_| Missing::Later("the fetch was torn down".into()))??;
        for removed in removed {
            store.forget_artifact(removed.to_string()).await.map_err(|e| later(&e))?;
        }
        let now = clock::now();
        let artifact =
            Artifact { sha256: digest.to_string(), size: image.size, verified_by: key, verified_at: now, used_at: now };
        store.keep_artifact(artifact).await.map_err(|e| later(&e))
    }

    fn block(&self, cache: &Cache, config: &Config, spare: &[Digest]) -> Result<(Arc<Image>, Vec<Digest>), Missing> {
        match cache.open(self.digest) {
            Ok(image) => return self.sized(image).map(|image| (image, Vec::new())),
            Err(CacheError::Absent | CacheError::Altered(_)) => {}
            Err(error) => return Err(Missing::Later(error.to_string())),
        }
        let limits = Limits { quota: config.quota, keep_free: config.keep_free };
        let removed = cache
            .make_room(self.digest, self.order.size + self.reserved, limits, spare)
            .map_err(|e| Missing::Later(e.to_string()))?;
        let errand = Errand {
            url: self.order.url.clone(),
            size: self.order.size,
            part: cache.part(self.digest),
            ca: config.ca.clone(),
            done: self.done.clone(),
            stop: self.stop.clone(),
        };
        let continued = fetch(&errand).map_err(|error| match error {
            FetchError::Transport(why) | FetchError::Disk(why) => Missing::Later(why),
            FetchError::Stopped => Missing::Stopped,
            FetchError::Refused(why) => {
                cache.drop_part(self.digest);
                Missing::Never(why)
            }
        })?;
        match cache.admit(self.digest) {
            Ok(image) => Ok((image, removed)),
            // The head may come from an earlier life of the part (a power cut, a careless server): once more, whole.
            Err(error @ CacheError::Mismatch { .. }) if continued => Err(Missing::Later(error.to_string())),
            Err(error @ CacheError::Mismatch { .. }) => Err(Missing::Never(error.to_string())),
            Err(error) => Err(Missing::Later(error.to_string())),
        }
    }

    /// The signature covers the digest; the ordered size must be the image's too.
    fn sized(&self, image: Arc<Image>) -> Result<Arc<Image>, Missing> {
        match image.size == self.order.size {
            true => Ok(image),
            false => {
                Err(Missing::Never(format!("the image has {} bytes, ordered were {}", image.size, self.order.size)))
            }
        }
    }
}
