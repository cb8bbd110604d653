//! The figures for people: tables, and how they stand to the targets.

use std::fmt::{self, Write};
use std::io::Write as _;

use serde::Serialize;

use crate::Figures;
use crate::append::Standing;
use crate::contender::Contender;
use crate::load::{Measured, Ratio};
use crate::{aggregate, filled, open, stages};

/// With so many callers, throughput of ours is to be at least so many times that of the others.
const BUSY_CALLERS: usize = 256;
const LEAST_OVER_STOCK: f64 = 4.0;
const LEAST_OVER_INSERTS: f64 = 1.5;
/// The longest median of a lone append, in medians of one durable INSERT.
const MOST_OVER_INSERT: f64 = 1.5;
/// The most that an append to a filled log costs, in appends to an empty one.
const MOST_OVER_EMPTY: f64 = 1.2;
/// The longest median of a load through a snapshot, in microseconds.
const LONGEST_LOAD_US: f64 = 5000.0;

/// Something that was to be reached, and what was.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    /// In words.
    pub(crate) what: String,
    /// What was wanted.
    pub(crate) wanted: f64,
    /// What was found; absent when it could not be measured.
    pub(crate) found: Option<f64>,
    /// Whether that will do.
    pub(crate) met: bool,
}

impl Target {
    fn at_least(what: String, wanted: f64, found: f64) -> Self {
        Self {
            what: what + ", at least",
            wanted,
            found: Some(found),
            met: found >= wanted,
        }
    }

    fn at_most(what: String, wanted: f64, found: Option<f64>) -> Self {
        Self {
            what: what + ", at most",
            wanted,
            found,
            met: found.is_some_and(|found| found <= wanted),
        }
    }
}

/// Tells whoever waits what is being done.
pub(crate) fn say(what: &str) {
    // Progress that nobody can be told is no reason to stop measuring.
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}

/// How the figures of this run stand to what they were to be.
pub(crate) fn targets(figures: &Figures) -> Vec<Target> {
    let mut targets = Vec::new();
    for row in &figures.append {
        let at = format!("{} bytes, {} callers", row.payload_bytes, row.callers);
        if row.callers == BUSY_CALLERS {
            for (other, wanted) in [
                (Contender::Stock, LEAST_OVER_STOCK),
                (Contender::Inserts, LEAST_OVER_INSERTS),
            ] {
                if let Some(standing) = row.standing(other) {
                    let what = format!("{at}: throughput over {other}");
                    targets.push(Target::at_least(what, wanted, standing.speed_of_ours.median));
                }
            }
        }
        if row.callers == 1
            && let Some(standing) = row.standing(Contender::Inserts)
        {
            let what = format!("{at}: median over that of one durable INSERT");
            targets.push(Target::at_most(
                what,
                MOST_OVER_INSERT,
                Some(standing.p50_of_ours.median),
            ));
        }
    }
    if let Some(filled) = &figures.filled {
        for row in &filled.rows {
            let at = format!("log of {} events, {} callers", filled.events, row.callers);
            let costs = [("median", row.p50_cost), ("time a command", row.time_cost)];
            targets.extend(costs.map(|(what, cost)| {
                Target::at_most(
                    format!("{at}: {what} over that on an empty log"),
                    MOST_OVER_EMPTY,
                    Some(cost.median),
                )
            }));
        }
    }
    if let Some(load) = &figures.load {
        let found = load.through_snapshot.as_ref();
        #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
        let found = found.map(|snapshot| snapshot.measured.p50_us as f64);
        let what = format!("loading {} events through a snapshot, microseconds", load.events);
        targets.push(Target::at_most(what, LONGEST_LOAD_US, found));
    }
    targets
}

/// The figures for people: one line a measurement, ratios last.
pub(crate) fn table(figures: &Figures) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, figures);
    text
}

fn write_all(text: &mut String, figures: &Figures) -> fmt::Result {
    write_machine(text, figures)?;
    write_append(text, figures)?;
    if let Some(open) = &figures.open {
        write_open(text, open)?;
    }
    if let Some(filled) = &figures.filled {
        write_filled(text, filled)?;
    }
    if let Some(load) = &figures.load {
        write_load(text, load)?;
    }
    write_read(text, figures)?;
    if let Some(row) = &figures.rebuild {
        writeln!(
            text,
            "\nrebuild of `contents`: {} events, {:.0}/s; reading the same rows raw {:.0}/s; ratio {:.2}",
            row.events, row.rebuilt_per_second, row.read_per_second, row.to_read
        )?;
    }
    if let Some(stages) = &figures.stages {
        write_stages(text, stages)?;
    }
    if !figures.targets.is_empty() {
        writeln!(text, "\ntargets")?;
        for target in &figures.targets {
            let found = target
                .found
                .map_or("not measured".to_owned(), |found| format!("{found:.2}"));
            let verdict = if target.met { "met" } else { "MISSED" };
            writeln!(text, "{:<90} {:>8} {found:>13}  {verdict}", target.what, target.wanted)?;
        }
    }
    Ok(())
}

fn write_machine(text: &mut String, figures: &Figures) -> fmt::Result {
    let machine = &figures.machine;
    let load = |load: Option<f64>| load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    writeln!(
        text,
        "{}: {}, {} processors ({}), {} MiB, {}",
        machine.began,
        machine.system,
        machine.processors,
        machine.processor.as_deref().unwrap_or("unknown"),
        machine.memory_bytes.unwrap_or_default() >> 20,
        machine.file_system.as_deref().unwrap_or("unknown file system"),
    )?;
    writeln!(
        text,
        "PostgreSQL {}; fsync {}, synchronous_commit {}, full_page_writes {}, wal_sync_method {}, wal_compression {}, \
         shared_buffers {}, max_wal_size {}",
        machine.setting("server_version"),
        machine.setting("fsync"),
        machine.setting("synchronous_commit"),
        machine.setting("full_page_writes"),
        machine.setting("wal_sync_method"),
        machine.setting("wal_compression"),
        machine.setting("shared_buffers"),
        machine.setting("max_wal_size"),
    )?;
    writeln!(
        text,
        "pools of {} connections for each contender (annals appends through one besides); logs begin with {} events; \
         {} s each in {} turns; load average before {}, after {}",
        figures.connections,
        figures.begin_with,
        figures.seconds,
        figures.rounds,
        load(machine.load_before),
        load(machine.load_after),
    )?;
    if !machine.optimised {
        writeln!(
            text,
            "BUILT WITHOUT OPTIMISATION: these figures say nothing; use --release"
        )?;
    }
    Ok(())
}

fn ratio(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.lowest, ratio.highest)
}

/// Throughput with its spread, and latencies.
fn write_measured(text: &mut String, measured: &Measured) -> fmt::Result {
    write!(
        text,
        " {:>9.0} {:>15} {:>8} {:>8} {:>8} {:>8} {:>8}",
        measured.per_second,
        format!("{:.0}-{:.0}", measured.lowest_per_second, measured.highest_per_second),
        measured.p50_us,
        measured.p90_us,
        measured.p99_us,
        measured.p999_us,
        measured.max_us,
    )
}

/// The head of [`write_measured`].
fn write_measured_head(text: &mut String) -> fmt::Result {
    write!(
        text,
        " {:>9} {:>15} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "answers/s", "lowest-highest", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"
    )
}

fn write_append(text: &mut String, figures: &Figures) -> fmt::Result {
    let mut payload_bytes = None;
    for row in &figures.append {
        if payload_bytes != Some(row.payload_bytes) {
            payload_bytes = Some(row.payload_bytes);
            write!(
                text,
                "\nappend, closed loop, one event a command, payload {} bytes\n{:>7} {:<13}",
                row.payload_bytes, "callers", "contender"
            )?;
            write_measured_head(text)?;
            writeln!(text, " {:>22} {:>22}", "annals/s over this", "annals p50 over this")?;
        }
        for Standing {
            contender,
            measured,
            speed_of_ours,
            p50_of_ours,
        } in &row.contenders
        {
            write!(text, "{:>7} {contender:<13}", row.callers)?;
            write_measured(text, measured)?;
            match contender {
                Contender::Annals => writeln!(text)?,
                _ => writeln!(text, " {:>22} {:>22}", ratio(*speed_of_ours), ratio(*p50_of_ours))?,
            }
        }
    }
    Ok(())
}

fn write_open(text: &mut String, open: &open::Figures) -> fmt::Result {
    write!(
        text,
        "\nappend, open loop, payload {} bytes; capacity with {} callers:",
        open.payload_bytes, open.callers
    )?;
    for capacity in &open.capacities {
        write!(text, " {} {:.0}/s;", capacity.contender, capacity.measured.per_second)?;
    }
    writeln!(text)?;
    for (what, rows) in [
        ("each at shares of its own capacity", &open.own),
        ("all at the same rates", &open.same),
    ] {
        write!(text, "{what}\n{:>7} {:>6} {:<13}", "rate/s", "share", "contender")?;
        write_measured_head(text)?;
        writeln!(text, " {:>8} {:>10} {:>12}", "refused", "unanswered", "late p99 us")?;
        for row in rows {
            write!(
                text,
                "{:>7.0} {:>5.0}% {:<13}",
                row.rate,
                row.share * 100.0,
                row.contender
            )?;
            write_measured(text, &row.measured)?;
            writeln!(
                text,
                " {:>8} {:>10} {:>12}",
                row.measured.refused,
                row.measured.unanswered,
                row.measured.late_p99_us.unwrap_or_default()
            )?;
        }
    }
    Ok(())
}

fn write_filled(text: &mut String, filled: &filled::Figures) -> fmt::Result {
    let mebibytes = |bytes: Option<u64>| bytes.unwrap_or_default() >> 20;
    write!(
        text,
        "\nappend to a log of {} events in {} streams ({} MiB; filled with {:.0} events/s, this process then held {} MiB, \
         at most {} MiB) against one of {} events, payload {} bytes\n{:>7} {:<13}",
        filled.events,
        filled.streams,
        filled.log_bytes >> 20,
        filled.filled_per_second,
        mebibytes(filled.resident_bytes),
        mebibytes(filled.highest_resident_bytes),
        filled.empty_events,
        filled.payload_bytes,
        "callers",
        "log"
    )?;
    write_measured_head(text)?;
    writeln!(text, " {:>22} {:>22}", "p50 over empty", "time over empty")?;
    for row in &filled.rows {
        write!(text, "{:>7} {:<13}", row.callers, "empty")?;
        write_measured(text, &row.empty)?;
        write!(text, "\n{:>7} {:<13}", row.callers, "filled")?;
        write_measured(text, &row.filled)?;
        writeln!(text, " {:>22} {:>22}", ratio(row.p50_cost), ratio(row.time_cost))?;
    }
    Ok(())
}

fn write_load(text: &mut String, load: &aggregate::Figures) -> fmt::Result {
    let mut line = |what: &str, measured: &Measured| {
        writeln!(
            text,
            "{what}: p50 {} us, p90 {} us, max {} us, {} loads",
            measured.p50_us, measured.p90_us, measured.max_us, measured.answers
        )
    };
    line(
        &format!("\nloading a stream of {} events\nfrom its events", load.events),
        &load.from_events,
    )?;
    match &load.through_snapshot {
        Some(snapshot) => line(
            &format!("through its snapshot of version {}", snapshot.version),
            &snapshot.measured,
        ),
        None => writeln!(
            text,
            "through its snapshot: there was none in log.snapshots within {:.0} s",
            load.waited_s
        ),
    }
}

fn write_read(text: &mut String, figures: &Figures) -> fmt::Result {
    if figures.read.is_empty() {
        return Ok(());
    }
    write!(
        text,
        "\nread over HTTP, the bare handler sends the same bytes\n{:>7} {:<14} {:>7} {:<7}",
        "callers", "what", "bytes", "server"
    )?;
    write_measured_head(text)?;
    writeln!(text, " {:>22}", "annals/s over this")?;
    for row in &figures.read {
        for (server, measured) in [("annals", &row.annals), ("bare", &row.bare)] {
            write!(text, "{:>7} {:<14} {:>7} {server:<7}", row.callers, row.what, row.bytes)?;
            write_measured(text, measured)?;
            if server == "bare" {
                write!(text, " {:>22}", ratio(row.to_bare))?;
            }
            writeln!(text)?;
        }
    }
    Ok(())
}

fn write_stages(text: &mut String, stages: &stages::Figures) -> fmt::Result {
    let lone = &stages.lone;
    writeln!(
        text,
        "\nwhere a lone append spends its time, payload {} bytes, means in us",
        stages.payload_bytes
    )?;
    let rows = [
        ("prepare in the client: claims, sealing, hashes", Some(lone.prepare_us)),
        ("round trip of `select 1`", Some(lone.round_trip_us)),
        ("inside log.append", Some(lone.function_us)),
        ("write and flush of the write-ahead log", lone.flush_us),
        (
            "rest: encoding, binding, waking, commit but for its flush",
            Some(lone.rest_us),
        ),
        ("whole append", Some(lone.whole_us)),
        ("whole append, fsync off", Some(lone.without_fsync_us)),
        ("one INSERT of the same row", Some(lone.insert_us)),
        ("one durable commit alone", Some(lone.commit_us)),
    ];
    for (what, mean) in rows {
        let mean = mean.map_or("unknown".to_owned(), |mean| format!("{mean:.0}"));
        writeln!(text, "{what:<60} {mean:>8}")?;
    }
    writeln!(text, "{:<60} {:>8.0}", "bytes of write-ahead log", lone.wal_bytes)?;
    if stages.batches.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "batches\n{:>7} {:>14} {:>13} {:>15} {:>9} {:>13} {:>16}",
        "callers", "commands/batch", "log.append us", "us per command", "flush us", "batch cycle us", "WAL B/command"
    )?;
    for batch in &stages.batches {
        writeln!(
            text,
            "{:>7} {:>14.1} {:>13.0} {:>15.1} {:>9} {:>13.0} {:>16.0}",
            batch.callers,
            batch.commands,
            batch.function_us,
            batch.function_per_command_us,
            batch
                .flush_us
                .map_or("unknown".to_owned(), |flush| format!("{flush:.0}")),
            batch.between_us,
            batch.wal_bytes,
        )?;
    }
    Ok(())
}
