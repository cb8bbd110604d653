//! The store under faults that come from outside: whole processes killed and stopped, and daemons of two ages on one
//! log. Faults at named points of one commit are in `eventstore::cuts`.

mod checker;
mod daemons;
mod torture;
