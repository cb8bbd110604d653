//! The figures as a table.

use std::fmt::Write as _;

use crate::Figures;

/// The figures for people: one line a measurement, ratios last.
pub(crate) fn table(figures: &Figures) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{} processors, pools of {} connections, fsync and synchronous_commit on",
        figures.processors, figures.connections
    );
    if !figures.append.is_empty() {
        let _ = writeln!(
            text,
            "\nappend, one event a command\n{:>8} {:>11} {:>11} {:>11} {:>9} {:>9} {:>9} {:>10} {:>11} {:>14}",
            "callers",
            "annals/s",
            "stock/s",
            "inserts/s",
            "p50 us",
            "p99 us",
            "insert us",
            "x stock",
            "x inserts",
            "p50 x insert"
        );
        for row in &figures.append {
            let _ = writeln!(
                text,
                "{:>8} {:>11.0} {:>11.0} {:>11.0} {:>9} {:>9} {:>9} {:>10.2} {:>11.2} {:>14.2}",
                row.callers,
                row.annals.per_second,
                row.stock.per_second,
                row.inserts.per_second,
                row.annals.p50_us,
                row.annals.p99_us,
                row.inserts.p50_us,
                row.to_stock,
                row.to_inserts,
                row.p50_to_insert,
            );
        }
    }
    if !figures.read.is_empty() {
        let _ = writeln!(
            text,
            "\nread over HTTP, the bare handler sends the same bytes\n{:<16} {:>8} {:>8} {:>11} {:>11} {:>9} {:>8}",
            "what", "callers", "bytes", "annals/s", "bare/s", "p50 us", "x bare"
        );
        for row in &figures.read {
            let _ = writeln!(
                text,
                "{:<16} {:>8} {:>8} {:>11.0} {:>11.0} {:>9} {:>8.2}",
                row.what,
                row.annals.callers,
                row.bytes,
                row.annals.per_second,
                row.bare.per_second,
                row.annals.p50_us,
                row.to_bare,
            );
        }
    }
    if let Some(row) = &figures.rebuild {
        let _ = writeln!(
            text,
            "\nrebuild of `contents`: {} events, {:.0}/s; reading the same rows raw {:.0}/s; ratio {:.2}",
            row.events, row.rebuilt_per_second, row.read_per_second, row.to_read
        );
    }
    text
}
