//! Keys and certificates on disk: written whole or not at all, keys for nobody else's eyes, PEM read with reasons.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// What is wrong with a file of keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: found {found}; expected {expected}")]
    Content { path: PathBuf, found: String, expected: &'static str },
}

impl FileError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |error| FileError::Io { path, error }
    }

    pub(super) fn content(path: &Path, found: impl ToString, expected: &'static str) -> FileError {
        FileError::Content { path: path.to_owned(), found: found.to_string(), expected }
    }
}

/// Makes `folder` (mode 0700) where it is missing, and closes it to others where it is not.
pub(super) fn private_folder(folder: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(FileError::io(folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(FileError::io(folder))
}

/// Replaces `path` by `content` in one step, synced, with mode 0600.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o600)
}

/// Replaces `path` by `content` in one step, synced, with mode 0644: certificates are for everybody.
pub(super) fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let beside = path.with_extension("new");
    let write = || {
        // A left-over of a kill may have any mode: begin anew.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(FileError::io(path))
}

/// The text of `path`; `None` where there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::io(path)(error)),
    }
}

/// All certificates of a PEM file, at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    const EXPECTED: &str = "one or more certificates in PEM (-----BEGIN CERTIFICATE-----)";
    let bytes = fs::read(path).map_err(FileError::io(path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| FileError::content(path, error, EXPECTED))?;
    if found.is_empty() {
        return Err(FileError::content(path, "none", EXPECTED));
    }
    Ok(found)
}

/// The first private key of a PEM file.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = zeroize::Zeroizing::new(fs::read(path).map_err(FileError::io(path))?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let expected = "a private key in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)";
        FileError::content(path, error, expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_closed_to_others_even_over_a_left_over() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("identity");
        private_folder(&inner).expect("folder");
        let path = inner.join("ca.key");
        fs::write(path.with_extension("new"), "left over").expect("left over");
        write_private(&path, b"secret").expect("write");
        write_private(&path, b"secret 2").expect("write again");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&inner)), (0o600, 0o700));
        assert_eq!(read_text(&path).expect("read").as_deref(), Some("secret 2"));
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_file_that_is_no_certificate_says_what_is_expected() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.pem");
        fs::write(&path, "hello").expect("write");
        let text = read_certificates(&path).expect_err("accepted").to_string();
        assert!(text.contains("x.pem") && text.contains("BEGIN CERTIFICATE"), "{text}");
        assert!(read_key(&path).is_err());
    }
}
