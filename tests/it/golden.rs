//! The gate's check of golden samples, on repositories made for it.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const SAMPLE: &str = "domain/golden/user.enabled.1.json";

/// A repository with one sample on its main branch.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(TempDir::new().unwrap());
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.write("README.md", "first");
        repository.commit();
        repository.write(SAMPLE, "{\"at\": 1}\n");
        repository.commit();
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, arguments: &[&str]) -> Output {
        let output = Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        output
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=change"]);
    }

    fn branch(&self, name: &str) {
        self.git(&["checkout", "--quiet", "-b", name]);
    }

    /// As a fresh checkout by a server has it: no branch of its own, so many commits deep.
    fn clone(&self, depth: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let origin = format!("file://{}", self.path().display());
        let target = folder.path().display().to_string();
        self.git(&["clone", "--quiet", "--depth", depth, &origin, &target]);
        Self(folder)
    }

    /// Whether the gate lets it pass, and what it says.
    fn check(&self) -> (bool, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/golden");
        let output = Command::new(script).current_dir(self.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn passes(&self) {
        let (passes, said) = self.check();
        assert!(passes, "{said}");
    }

    #[track_caller]
    fn is_refused(&self) {
        let (passes, said) = self.check();
        assert!(!passes && said.contains(SAMPLE), "{said}");
    }
}

#[test]
fn a_new_sample_passes_and_may_be_mended_until_it_is_merged() {
    let repository = Repository::new();
    repository.branch("work");
    repository.write("domain/golden/user.enabled.2.json", "{}\n");
    repository.commit();
    repository.passes();
    repository.write("domain/golden/user.enabled.2.json", "{\"at\": 2}\n");
    repository.commit();
    repository.passes();
}

#[test]
fn a_changed_sample_is_refused_whether_committed_or_not() {
    let repository = Repository::new();
    repository.branch("work");
    repository.write(SAMPLE, "{\"at\": 2}\n");
    repository.is_refused();
    repository.commit();
    repository.is_refused();
    // Further commits do not hide it.
    repository.write("README.md", "more");
    repository.commit();
    repository.is_refused();
}

#[test]
fn a_removed_or_renamed_sample_is_refused() {
    let repository = Repository::new();
    repository.branch("removed");
    repository.git(&["rm", "--quiet", SAMPLE]);
    repository.commit();
    repository.is_refused();
    repository.git(&["checkout", "--quiet", "main"]);
    repository.branch("renamed");
    repository.git(&["mv", SAMPLE, "domain/golden/user.allowed.1.json"]);
    repository.commit();
    repository.is_refused();
}

#[test]
fn what_others_have_added_to_the_main_branch_meanwhile_is_no_loss() {
    let repository = Repository::new();
    repository.branch("work");
    repository.git(&["checkout", "--quiet", "main"]);
    repository.write("domain/golden/user.disabled.1.json", "{}\n");
    repository.commit();
    repository.git(&["checkout", "--quiet", "work"]);
    repository.write("README.md", "work");
    repository.commit();
    repository.passes();
}

#[test]
fn the_main_branch_is_compared_with_the_commit_before() {
    let repository = Repository::new();
    repository.passes();
    repository.write(SAMPLE, "{\"at\": 2}\n");
    repository.commit();
    repository.is_refused();
    repository.clone("2").is_refused();
    // Nothing earlier is there to compare with.
    let shallow = repository.clone("1");
    let (passes, said) = shallow.check();
    assert!(passes && said.contains("no earlier commit"), "{said}");
}

#[test]
fn the_published_main_branch_counts_before_the_local_one() {
    let repository = Repository::new();
    let clone = repository.clone("10");
    clone.write(SAMPLE, "{\"at\": 2}\n");
    clone.commit();
    clone.write("README.md", "more");
    clone.commit();
    clone.is_refused();
}

#[test]
fn a_folder_without_a_history_passes() {
    let folder = TempDir::new().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/golden");
    let output = Command::new(script).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
