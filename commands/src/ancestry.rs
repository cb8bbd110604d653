//! Keeps trees of aggregates free of cycles.
//!
//! Each node knows its parent alone, so a move must look at every node above its new place. Those nodes are read and
//! the commit is made to depend on their versions: of two moves that would close a circle together, the second finds
//! one of its streams changed and is decided again.

use annals_domain::{ClaimScope, Content, ContentId, Datatype, DatatypeId, EventSourced};

use crate::{CommandError, UnitOfWork};

/// Deepest place that something can be moved to.
const MAX_DEPTH: usize = 1000;

/// An aggregate that hangs under another of its kind.
pub(crate) trait Nested: EventSourced<Id: PartialEq> {
    const SCOPE: ClaimScope;
    const CYCLE: &'static str;
    const TOO_DEEP: &'static str;

    fn is_live(&self) -> bool;
    fn parent(&self) -> Option<Self::Id>;
}

impl Nested for Content {
    const SCOPE: ClaimScope = ClaimScope::Content;
    const CYCLE: &'static str = "content.cycle";
    const TOO_DEEP: &'static str = "content.too_deep";

    fn is_live(&self) -> bool {
        self.lifecycle.is_live()
    }

    fn parent(&self) -> Option<ContentId> {
        self.parent_id
    }
}

impl Nested for Datatype {
    const SCOPE: ClaimScope = ClaimScope::Datatype;
    const CYCLE: &'static str = "datatype.cycle";
    const TOO_DEEP: &'static str = "datatype.too_deep";

    fn is_live(&self) -> bool {
        self.lifecycle.is_live()
    }

    fn parent(&self) -> Option<DatatypeId> {
        self.parent_id
    }
}

/// Makes `unit` depend on `id` not being above `parent`.
///
/// # Errors
/// `<aggregate>.cycle`; `<aggregate>.too_deep`; [`CommandError::Missing`] when there is no such parent.
pub(crate) async fn must_not_be_above<A: Nested>(
    unit: &mut UnitOfWork<'_>,
    id: A::Id,
    parent: A::Id,
) -> Result<(), CommandError> {
    const FIELD: Option<&str> = Some("parent_id");
    let mut above = Some(parent);
    for depth in 0..MAX_DEPTH {
        let Some(next) = above else { return Ok(()) };
        if next == id {
            return Err(CommandError::rule(
                A::CYCLE,
                FIELD,
                "nothing can hang under what hangs under it",
            ));
        }
        let read = unit.load::<A>(next).await?;
        if depth == 0 && !read.state.is_live() {
            return Err(CommandError::Missing {
                scope: A::SCOPE,
                field: FIELD,
            });
        }
        unit.rely_on(&read);
        // Children of a deleted node stay, as roots: whatever was above it is above them no more.
        above = if read.state.is_live() {
            read.state.parent()
        } else {
            None
        };
    }
    Err(CommandError::rule(
        A::TOO_DEEP,
        FIELD,
        format!("nothing can hang {MAX_DEPTH} levels deep"),
    ))
}
