//! Recording that sessions are past their time.

use annals_domain::{Permission, Session, SessionCommand, SessionId, SessionStatus};
use tracing::instrument;

use crate::executor::Staged;
use crate::session::Revoked;
use crate::{CommandContext, CommandError, UnitOfWork};

/// Sessions whose end is recorded in one commit.
const SESSIONS_OF_A_COMMIT: usize = 100;

/// Records the end of those among `sessions` whose time is over; the log decides which are. For the program itself, and
/// for those who may manage users.
///
/// # Errors
/// [`CommandError::Denied`]; what the commits report. Earlier commits stand.
#[instrument(name = "session.expire_past", skip_all)]
pub async fn expire_past(cx: &CommandContext<'_>, sessions: &[SessionId]) -> Result<Revoked, CommandError> {
    cx.caller.require(Permission::UserManage)?;
    let mut done = Revoked {
        sessions: 0,
        position: cx.store().head().await?.position,
    };
    for some in sessions.chunks(SESSIONS_OF_A_COMMIT) {
        let mut retry = cx.retry();
        loop {
            let attempt = async {
                let mut unit = UnitOfWork::new(cx);
                let at = unit.now();
                let mut count = 0;
                for session_id in some {
                    let read: Staged<Session> = unit.load(*session_id).await?;
                    if read.state.status == Some(SessionStatus::Live) && !read.state.is_live(at) {
                        unit.stage(read, [SessionCommand::Expire { at }])?;
                        count += 1;
                    }
                }
                Ok((count, unit.commit().await?.position))
            };
            match attempt.await {
                Ok((count, position)) => {
                    done.sessions += count;
                    done.position = position;
                    break;
                }
                Err(error) => retry.after(error).await?,
            }
        }
    }
    Ok(done)
}
