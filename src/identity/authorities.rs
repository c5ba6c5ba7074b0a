//! The gateway's authorities: the one that signs, and while children change over, the one before it.
//!
//! During the overlap both are trusted and handed out, the new one signs children, and the old one still signs what
//! the listeners show, so that a child that knows only the old one keeps coming in until it has fetched the new.

use std::{fs, io, path::Path};

use super::{
    authority::{Authority, AuthorityError, BEFORE, EARLIEST},
    files::{self, FileError},
};
use crate::model::time::Millis;

/// File stems: the authority in force, and the one that is being retired.
const CURRENT: &str = "ca";
const RETIRING: &str = "ca-old";

pub(super) struct Authorities {
    pub current: Authority,
    pub retiring: Option<Authority>,
}

impl Authorities {
    /// Reads what is in `folder`, makes the first authority where there is none, and puts right what a kill in the
    /// middle of [`Authorities::replace`] or [`Authorities::retire`] left.
    pub fn open(folder: &Path, name: &str, now: Millis) -> Result<Authorities, AuthorityError> {
        mend(folder)?;
        let current = Authority::open(folder, CURRENT, name, EARLIEST, now)?;
        let there = folder.join(format!("{RETIRING}.pem")).exists();
        let retiring = there.then(|| Authority::open(folder, RETIRING, name, EARLIEST, now)).transpose()?;
        Ok(Authorities { current, retiring })
    }

    /// Puts a new authority in the place of the current one, which is kept as the retiring one.
    pub fn replace(folder: &Path, name: &str, now: Millis) -> Result<Authorities, AuthorityError> {
        let path = |stem: &str, ending: &str| folder.join(format!("{stem}.{ending}"));
        let read = |ending| files::read_text(&path(CURRENT, ending)).map(Option::unwrap_or_default);
        files::write_private(&path(RETIRING, "key"), zeroize::Zeroizing::new(read("key")?).as_bytes())?;
        files::write_public(&path(RETIRING, "pem"), read("pem")?.as_bytes())?;
        // The certificate goes first: a key without one is made anew.
        remove(&path(CURRENT, "pem"))?;
        Authority::open(folder, CURRENT, name, now.plus(-BEFORE), now)?;
        Authorities::open(folder, name, now)
    }

    /// Forgets the retiring authority.
    pub fn retire(folder: &Path, name: &str, now: Millis) -> Result<Authorities, AuthorityError> {
        for ending in ["pem", "key"] {
            remove(&folder.join(format!("{RETIRING}.{ending}")))?;
        }
        Authorities::open(folder, name, now)
    }

    /// Both, the current one first.
    pub fn all(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.current).chain(&self.retiring)
    }

    /// The one that signs what the listeners show.
    pub fn of_server(&self) -> &Authority {
        self.retiring.as_ref().unwrap_or(&self.current)
    }

    /// What children are to trust (PEM).
    pub fn bundle(&self) -> String {
        self.all().map(|authority| authority.pem.trim_end()).fold(String::new(), |all, pem| all + pem + "\n")
    }

    /// Whether a certificate signed by `issuer` is from the authority in force.
    pub fn in_force(&self, issuer: Option<&str>) -> bool {
        match issuer {
            Some(issuer) => issuer == &*self.current.id,
            None => self.retiring.is_none(),
        }
    }
}

/// A kill may leave the old pair beside no new certificate, or half of the old pair.
fn mend(folder: &Path) -> Result<(), FileError> {
    let path = |stem: &str, ending: &str| folder.join(format!("{stem}.{ending}"));
    let old = files::read_text(&path(RETIRING, "pem"))?;
    let current = files::read_text(&path(CURRENT, "pem"))?;
    match (&old, &current) {
        // Begun and not finished: nothing was signed with a new key yet.
        (Some(pem), None) => {
            if let Some(key) = files::read_text(&path(RETIRING, "key"))?.map(zeroize::Zeroizing::new) {
                files::write_private(&path(CURRENT, "key"), key.as_bytes())?;
                files::write_public(&path(CURRENT, "pem"), pem.as_bytes())?;
            }
        }
        (Some(old), Some(current)) if old != current => return Ok(()),
        _ => {}
    }
    remove(&path(RETIRING, "pem"))?;
    remove(&path(RETIRING, "key"))
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    #[test]
    fn a_rotation_overlaps_and_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Authorities::open(folder.path(), "gw", NOW).expect("first");
        assert!(first.retiring.is_none() && first.in_force(None));
        let both = Authorities::replace(folder.path(), "gw", NOW).expect("replace");
        assert_eq!(both.of_server().id, first.current.id);
        assert_ne!(both.current.id, first.current.id);
        assert!(
            both.in_force(Some(&both.current.id)) && !both.in_force(None) && !both.in_force(Some(&first.current.id))
        );
        assert_eq!(both.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        let again = Authorities::open(folder.path(), "gw", NOW).expect("restart");
        assert_eq!((again.current.id, again.retiring.map(|a| a.id)), (both.current.id.clone(), Some(first.current.id)));
        let one = Authorities::retire(folder.path(), "gw", NOW).expect("retire");
        assert_eq!((one.current.id.clone(), one.retiring.is_none()), (both.current.id, true));
        assert_eq!(one.of_server().id, one.current.id);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "files are left over");
    }

    #[test]
    fn a_kill_at_any_step_of_a_rotation_leaves_an_authority_that_children_know() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Authorities::open(folder.path(), "gw", NOW).expect("first").current.id;
        let path = |name: &str| folder.path().join(name);
        let copy = |name: &str| fs::copy(path(&name.replace("-old", "")), path(name)).expect("copy");
        let opened = || Authorities::open(folder.path(), "gw", NOW).expect("open");
        copy("ca-old.key");
        assert_eq!((opened().current.id, path("ca-old.key").exists()), (first.clone(), false));
        copy("ca-old.key");
        copy("ca-old.pem");
        assert_eq!((opened().current.id, opened().retiring.is_none()), (first.clone(), true));
        copy("ca-old.key");
        copy("ca-old.pem");
        fs::remove_file(path("ca.pem")).expect("remove");
        fs::write(path("ca.key"), "a key of which nothing is known yet").expect("write");
        assert_eq!((opened().current.id, opened().retiring.is_none()), (first, true));
    }
}
