//! What each kind of finding means: how bad it is, what it breaks, what to do.
//!
//! Codes are stable: programs look for them.

use super::Severity::{self, Fault, Warning};

/// One kind of finding.
pub(super) struct Rule {
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) breaks: &'static str,
    pub(super) advice: &'static str,
}

const fn rule(code: &'static str, severity: Severity, breaks: &'static str, advice: &'static str) -> Rule {
    Rule {
        code,
        severity,
        breaks,
        advice,
    }
}

/// By code.
pub(super) const RULES: &[Rule] = &[
    rule(
        "activity_hidden",
        Warning,
        "Long transactions and locks of those sessions go unnoticed.",
        "Grant pg_read_all_stats to the connecting role.",
    ),
    rule(
        "append_lock_held",
        Fault,
        "Nothing can be appended while that session holds the lock: every command waits and is then refused.",
        "See what the session does; end it with pg_terminate_backend if it does not come to an end.",
    ),
    rule(
        "application_role_superuser",
        Fault,
        "A superuser is held back by no right and can switch triggers off, so that a mistake or a break-in can rewrite the log.",
        "Alter role annals_app nosuperuser; where the connecting role cannot become annals_app, connect as one that can.",
    ),
    rule(
        "application_role_unavailable",
        Warning,
        "The server acts as the connecting role. Triggers alone keep it from writing past log.append.",
        "Create role annals_app, grant it to the connecting role, and run `annals migrate`.",
    ),
    rule(
        "autovacuum_off",
        Warning,
        "Dead rows of checkpoints, claims and read models pile up, statistics grow old, and the log is frozen only in an emergency.",
        "Set autovacuum and track_counts to on.",
    ),
    rule(
        "autovacuum_off_for_table",
        Warning,
        "Dead rows of that table pile up and its statistics grow old.",
        "Alter table ... reset (autovacuum_enabled).",
    ),
    rule(
        "checkpoint_beyond_head",
        Fault,
        "The log ends before what the read model shows: it was restored from an older backup. The read model stands still.",
        "Bring the right log back, or accept this one with `annals rebuild NAME`.",
    ),
    rule(
        "clock_differs",
        Warning,
        "Tokens and sessions expire by one clock, events are recorded by the other; times of the two cannot be compared.",
        "Synchronise both machines with NTP.",
    ),
    rule(
        "data_checksums_off",
        Warning,
        "Damage done by the disk is noticed only when `annals verify` meets it, not when it is read.",
        "Stop the server and run pg_checksums --enable.",
    ),
    rule(
        "disk_space_low",
        Fault,
        "PostgreSQL stops when its disk is full; no command is accepted until there is room again.",
        "Free space, or move the data folder to a larger disk.",
    ),
    rule(
        "encoding_not_utf8",
        Fault,
        "The stored bytes would not be the hashed bytes.",
        "Create the database with encoding 'UTF8' template template0, and move the data by pg_dump.",
    ),
    rule(
        "fsync_off",
        Fault,
        "An acknowledged event, or the whole database, can be lost when the machine stops.",
        "Set fsync to on; if the machine has crashed since it was off, run `annals verify`.",
    ),
    rule(
        "full_page_writes_off",
        Fault,
        "A page half written when the machine stops stays damaged.",
        "Set full_page_writes to on.",
    ),
    rule(
        "function_changed",
        Fault,
        "The log is written or protected by something else than what was tested: order, chain and claims are not guaranteed.",
        "Restore the function from its migration in migrations/log, as the owner of the log, and run `annals verify`.",
    ),
    rule(
        "idle_in_transaction",
        Warning,
        "It holds back vacuum in the whole server, and may hold locks for as long as it sits there.",
        "End it with pg_terminate_backend; set idle_in_transaction_session_timeout for whoever it belongs to.",
    ),
    rule(
        "isolation_not_read_committed",
        Fault,
        "log.append refuses such transactions, for it would judge commands by an old log. Annals sets its own sessions right; other tools fail.",
        "Reset default_transaction_isolation.",
    ),
    rule(
        "lease_holder_gone",
        Warning,
        "Nobody keeps the read model up to date: no server runs, or its engine does not answer.",
        "Start a server; if one runs, look at its log.",
    ),
    rule(
        "log_diverged",
        Fault,
        "The read model was built from another history than that of this log. It stands still.",
        "Bring the right log back, or accept this one with `annals rebuild NAME`.",
    ),
    rule(
        "long_transaction",
        Warning,
        "It holds back vacuum in the whole server: tables and indexes grow until it ends.",
        "See what it does; end it with pg_terminate_backend if it is forgotten.",
    ),
    rule(
        "max_connections_low",
        Fault,
        "Under load the server cannot connect, and answers 503.",
        "Raise the limit, or lower database.pool_connections.",
    ),
    rule(
        "migration_changed",
        Fault,
        "The schema is not the one this program was tested with.",
        "Use the program that made this database, or restore the schema from a backup.",
    ),
    rule(
        "migration_missing",
        Fault,
        "Tables or functions that this program needs are not there.",
        "Run `annals migrate`.",
    ),
    rule(
        "migration_unknown",
        Fault,
        "A newer Annals has migrated this database; this program would write what that one does not expect.",
        "Use the newer program.",
    ),
    rule(
        "notifications_lost",
        Fault,
        "Behind a pooler that lends connections by the transaction, sessions lose role, search path and timeouts, and processes hear of each other only every second.",
        "Connect to PostgreSQL itself, or let the pooler work by the session.",
    ),
    rule(
        "prepared_transaction",
        Warning,
        "It holds its locks and holds back vacuum until somebody ends it, also across restarts. Annals makes none.",
        "Commit prepared or rollback prepared.",
    ),
    rule(
        "read_only_by_default",
        Fault,
        "Every command fails: its transaction may not write.",
        "Reset default_transaction_read_only.",
    ),
    rule(
        "replication_slot_holds_wal",
        Warning,
        "The WAL that the slot keeps fills the disk, and then PostgreSQL stops.",
        "Start its consumer again, drop the slot, or set max_slot_wal_keep_size.",
    ),
    rule(
        "right_excessive",
        Fault,
        "Somebody beside log.append may write the log; only triggers are left to refuse it.",
        "Revoke the right.",
    ),
    rule(
        "right_missing",
        Fault,
        "The server cannot do its work: statements that need the right fail.",
        "Run `annals migrate`, which grants what is needed.",
    ),
    rule(
        "server_too_old",
        Fault,
        "Annals relies on what PostgreSQL 15 brought.",
        "Upgrade to PostgreSQL 15 or newer.",
    ),
    rule(
        "session_replication_role_replica",
        Fault,
        "Triggers do not fire, so that nothing keeps the owner from rewriting the log.",
        "Reset session_replication_role, and run `annals verify`.",
    ),
    rule(
        "standby",
        Fault,
        "A standby takes no commands; the server does not start on it.",
        "Point DATABASE_URL to the primary. Reading commands such as `annals verify` may use the standby.",
    ),
    rule(
        "synchronous_commit_off",
        Fault,
        "A commit counts as done before it is on disk. Annals and log.append override it for their own sessions; commits of all others can vanish in a crash.",
        "Reset synchronous_commit where it is set.",
    ),
    rule(
        "transaction_ids_exhausted",
        Fault,
        "PostgreSQL refuses all writing shortly before two billion.",
        "Vacuum that database now; find what holds vacuum back.",
    ),
    rule(
        "transaction_ids_old",
        Warning,
        "Vacuum has not frozen old rows for long; PostgreSQL refuses all writing shortly before two billion.",
        "Find what holds vacuum back: long transactions, prepared transactions, replication slots.",
    ),
    rule(
        "trigger_disabled",
        Fault,
        "Nothing keeps the owner of the log from rewriting it by mistake.",
        "Alter table ... enable trigger ..., and run `annals verify`.",
    ),
    rule(
        "trigger_missing",
        Fault,
        "Nothing keeps the owner of the log from rewriting it by mistake.",
        "Make the trigger again as migrations/log does, and run `annals verify`.",
    ),
    rule(
        "wal_level_minimal",
        Warning,
        "Neither a standby nor an archive of WAL is possible, so that a backup is as old as the last dump.",
        "Set wal_level to replica.",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::{activity, log, rights};
    use super::RULES;

    #[test]
    fn codes_are_in_order_and_none_comes_twice() {
        assert!(RULES.is_sorted_by(|one, next| one.code < next.code));
    }

    #[test]
    fn the_manual_tells_of_every_code() {
        let manual = include_str!("../../../docs/operations.md");
        for rule in RULES {
            let severity = format!("{:?}", rule.severity).to_lowercase();
            let line = format!("\n| `{}` | {severity} | {} |\n", rule.code, rule.breaks);
            assert!(manual.contains(&line), "{line}");
        }
    }

    #[test]
    fn every_code_that_a_statement_gives_is_explained() {
        let statements = [activity::STATEMENTS, log::STATEMENTS, rights::STATEMENTS].concat();
        let mut codes = 0;
        for statement in statements {
            for (end, _) in statement.match_indices("'::text,") {
                let start = statement[..end].rfind('\'').expect("a literal has two ends") + 1;
                let code = &statement[start..end];
                assert!(RULES.iter().any(|rule| rule.code == code), "{code}");
                codes += 1;
            }
        }
        assert!(codes > 15, "{codes}");
    }
}
