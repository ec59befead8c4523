//! A loop device of a test's own, which goes away with it.

use std::process::Command;

/// A loop device, detached at the end.
pub(crate) struct Loop {
    pub(crate) path: String,
    pub(crate) file: tempfile::NamedTempFile,
}

impl Loop {
    /// Of a file of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let file = tempfile::NamedTempFile::with_suffix(" of test.img").expect("a file");
        file.as_file().set_len(bytes).expect("a length");
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--partscan"]).arg(file.path());
        let output = losetup.output().expect("losetup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8(output.stdout).expect("text");
        Self { path: path.trim().to_owned(), file }
    }

    /// `loop3`
    pub(crate) fn name(&self) -> &str {
        self.path.strip_prefix("/dev/").expect("a device")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A panic must not become an abort: whatever fails here leaves a device behind, no more. Who still has it
        // open keeps the file too, but not its space.
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
        let _ = self.file.as_file().set_len(0);
    }
}
