//! The torture run in short: every kind of fault once.

#![allow(clippy::print_stderr, reason = "how a run went is worth seeing when it fails")]

use std::time::Duration;

use annals_tests::kit::torture::{FaultKind, TortureOptions, run};

/// A run that takes longer than this, on a machine that has much else to do, is cut short; then some kinds are missing.
const LONGEST: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_under_any_kind_of_fault() {
    let seed = std::env::var("ANNALS_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("seed {seed}: ANNALS_TEST_SEED repeats its choices");
    let report = run(TortureOptions {
        program: env!("CARGO_BIN_EXE_torture").into(),
        folder: None,
        duration: LONGEST,
        each_kind_once: true,
        seed,
        processes: 4,
        callers: 8,
        events_per_stream: 4,
        events_per_second: 4000,
        events_at_least: 1000,
        longest_pause: Duration::from_millis(100),
        lease: Duration::from_secs(1),
        disk_bytes: 4 << 30,
        tell: |line| eprintln!("{line}"),
    })
    .await
    .expect("the kit does its work");
    assert!(report.is_clean(), "{}", report.to_markdown());
    let kinds = report.by_kind().len() + report.skipped.len();
    eprintln!("{kinds} of {} kinds", FaultKind::ALL.len());
    assert!(kinds >= 20, "{}", report.to_markdown());
}
