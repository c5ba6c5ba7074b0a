//! A library that stands before the C library of the daemon and obeys a file: how its disk fails, what time it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{gateway::Builder, site::output};

pub struct Preload {
    folder: tempfile::TempDir,
    variable: &'static str,
}

impl Preload {
    /// Built from a file beside this one; `variable` names it the file with its orders.
    pub fn new(source: &str, variable: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let library = folder.path().join("library.so").display().to_string();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(source).display().to_string();
        let said = output("cc", &["-O1", "-shared", "-fPIC", "-o", &library, &source, "-ldl"]);
        assert!(said.is_empty(), "{said}");
        Self { folder, variable }
    }

    pub fn around(&self, builder: Builder) -> Builder {
        builder.env("LD_PRELOAD", self.folder.path().join("library.so")).env(self.variable, self.orders())
    }

    fn orders(&self) -> PathBuf {
        self.folder.path().join("orders")
    }

    /// From the next call on.
    pub fn obeys(&self, order: &str) {
        let made = self.folder.path().join("made");
        fs::write(&made, order).expect("written");
        fs::rename(made, self.orders()).expect("in place");
    }

    /// Whether something waits for the order to end.
    pub fn holds(&self) -> bool {
        self.orders().with_extension("held").exists()
    }

    pub fn rests(&self) {
        fs::remove_file(self.orders()).expect("removed");
    }
}
