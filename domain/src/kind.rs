//! Names and versions of event types, and the macro that keeps an enum and its list of them in step.

/// One stored event type at the version that is written today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventKind {
    /// The aggregate whose streams hold such events, such as `content`.
    pub aggregate_type: &'static str,
    /// The stored name, `<aggregate>.<fact>`, unique across all aggregates.
    pub event_type: &'static str,
    /// A whole number from 1; older versions are lifted by upcasters when they are read.
    pub version: &'static str,
}

/// Writes `KINDS` and [`cqrs_es::DomainEvent`] from one list, so that a new variant cannot be left out of either.
macro_rules! event_kinds {
    ($event:ident of $aggregate:literal { $($variant:ident: $event_type:literal, $version:literal;)+ }) => {
        impl $event {
            /// Every event type of this aggregate, each at its present version.
            pub const KINDS: &'static [$crate::kind::EventKind] = &[
                $($crate::kind::EventKind {
                    aggregate_type: $aggregate,
                    event_type: $event_type,
                    version: $version,
                },)+
            ];

            /// The stored type and version of this event.
            #[must_use]
            pub const fn kind(&self) -> $crate::kind::EventKind {
                match self {
                    $(Self::$variant { .. } => $crate::kind::EventKind {
                        aggregate_type: $aggregate,
                        event_type: $event_type,
                        version: $version,
                    },)+
                }
            }
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                self.kind().event_type.to_owned()
            }

            fn event_version(&self) -> String {
                self.kind().version.to_owned()
            }
        }
    };
}
