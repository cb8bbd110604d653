//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::kit::checker::Checked;

/// One fault that was injected.
#[derive(Debug, Clone, Serialize)]
pub struct FaultRecord {
    /// Its kind.
    pub kind: &'static str,
    /// When it began, in microseconds of the histories' clock.
    pub at_us: u64,
    /// How long it lasted, in milliseconds.
    pub took_ms: u64,
    /// From its end to the next commit, in milliseconds.
    pub recovered_ms: u64,
    /// What was hit, in words.
    pub note: String,
}

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Repeats the choices of the run.
    pub seed: u64,
    /// How long it was written and read, in seconds.
    pub elapsed_s: f64,
    /// How long the check took, in seconds.
    pub check_s: f64,
    /// Processes that wrote at a time.
    pub writers: usize,
    /// Processes that read at a time.
    pub readers: usize,
    /// Processes that were started, the ones that replaced killed ones included.
    pub lives: usize,
    /// PostgreSQL, as it names itself.
    pub server: String,
    /// Processors of the machine.
    pub processors: usize,
    /// Whether the log was on a disk of its own, or why not.
    pub disk: String,
    /// Faults in their order.
    pub faults: Vec<FaultRecord>,
    /// Kinds that could not be injected, and why.
    pub skipped: BTreeMap<&'static str, String>,
    /// Notifications that the proxies kept back.
    pub lost_notifications: u64,
    /// What the check found.
    pub checked: Checked,
}

impl Report {
    /// Whether nothing was lost, doubled, reordered or stuck.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.checked.is_clean()
    }

    /// Faults of each kind.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for fault in &self.faults {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        kinds
    }

    /// The longest time without any acknowledgement, in milliseconds.
    #[must_use]
    pub fn longest_pause_ms(&self) -> u64 {
        self.checked.pauses_us.first().map_or(0, |(_, length)| length / 1000)
    }

    /// The kind of the last fault that had begun before a pause ended.
    fn cause_of(&self, begin_us: u64, length_us: u64) -> &'static str {
        self.faults
            .iter()
            .rev()
            .find(|fault| fault.at_us < begin_us + length_us)
            .map_or("start", |fault| fault.kind)
    }

    /// The report as a page of Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut page = String::new();
        // Writing into a string cannot fail.
        let _ = self.write_markdown(&mut page);
        page
    }

    fn write_markdown(&self, page: &mut String) -> std::fmt::Result {
        let checked = &self.checked;
        writeln!(page, "# Torture run\n")?;
        writeln!(
            page,
            "{} Seed `{}`; {:.0} s under load, {:.0} s of checking afterwards.\n",
            if self.is_clean() {
                "**Nothing lost, nothing doubled, nothing reordered, no reader stuck.**"
            } else {
                "**FAILED.**"
            },
            self.seed,
            self.elapsed_s,
            self.check_s
        )?;
        for violation in &checked.violations {
            writeln!(page, "- {violation}")?;
        }
        if checked.more_violations > 0 {
            writeln!(page, "- and {} more", checked.more_violations)?;
        }
        if !checked.violations.is_empty() {
            writeln!(page)?;
        }
        writeln!(page, "| figure | value |\n| --- | --- |")?;
        let rate = checked.events as f64 / self.elapsed_s.max(f64::MIN_POSITIVE);
        let figures = [
            ("events", checked.events.to_string()),
            ("events a second, faults included", format!("{rate:.0}")),
            ("commands in the log", checked.commands.to_string()),
            ("streams", checked.streams.to_string()),
            ("claims held at the end", checked.claims.to_string()),
            ("calls", checked.calls.to_string()),
            ("faults", self.faults.len().to_string()),
            ("kinds of fault", self.by_kind().len().to_string()),
            (
                "longest time without an acknowledgement",
                format!("{} ms", self.longest_pause_ms()),
            ),
            ("refusals whose truth was checked", checked.refusals_checked.to_string()),
            ("commands in doubt that had happened", checked.doubtful_done.to_string()),
            ("commands in doubt that had not", checked.doubtful_undone.to_string()),
            (
                "repetitions told that they were the first",
                checked.told_again.to_string(),
            ),
            ("digests of readers compared", checked.digests.to_string()),
            ("notifications kept back", self.lost_notifications.to_string()),
            (
                "processes",
                format!(
                    "{} writing, {} reading, {} lives",
                    self.writers, self.readers, self.lives
                ),
            ),
            ("server", format!("{}, {} processors", self.server, self.processors)),
            ("disk", self.disk.clone()),
        ];
        for (name, value) in figures {
            writeln!(page, "| {name} | {value} |")?;
        }
        writeln!(page, "\n## Faults\n")?;
        writeln!(
            page,
            "Recovery is the time from the end of the fault to the next commit.\n"
        )?;
        writeln!(page, "| kind | times | longest recovery, ms |\n| --- | --- | --- |")?;
        for (kind, times) in self.by_kind() {
            let longest = self
                .faults
                .iter()
                .filter(|fault| fault.kind == kind)
                .map(|fault| fault.recovered_ms)
                .max();
            writeln!(page, "| {kind} | {times} | {} |", longest.unwrap_or(0))?;
        }
        for (kind, why) in &self.skipped {
            writeln!(page, "| {kind} | skipped: {why} | |")?;
        }
        writeln!(page, "\n## Answers\n\n| answer | times |\n| --- | --- |")?;
        for (answer, times) in &checked.answers {
            writeln!(page, "| {answer} | {times} |")?;
        }
        writeln!(page, "\n## Longest pauses\n")?;
        writeln!(
            page,
            "| without an acknowledgement, ms | last fault before |\n| --- | --- |"
        )?;
        for (begin, length) in checked.pauses_us.iter().take(10) {
            writeln!(page, "| {} | {} |", length / 1000, self.cause_of(*begin, *length))?;
        }
        writeln!(page, "\n## Checked\n")?;
        writeln!(
            page,
            "Positions dense; versions of every stream 1, 2, 3 ...; one owner of every claim at every position; every \
             acknowledged command in the log once, whole, where its caller was told; nothing there that nobody sent or \
             that was refused every time; commits linearizable; every refusal true at some moment between call and \
             answer; all readers saw one sequence and reached the head; the projection took every event in once; \
             chain, streams and claims by the store's own check."
        )
    }
}
