//! How many sessions a user may have at once.

use annals_domain::{RevocationReason, Session, SessionCommand, SessionId, SessionStatus, Timestamp, UserId};

use crate::executor::Staged;
use crate::session::live_sessions;
use crate::{CommandContext, CommandError, UnitOfWork};

/// Ends sessions of a user until no more than the limit are left, those in least use first, `newest` never. Called after
/// the commit that opened `newest`, so that of sign-ins at once the last one to get here sees all of them. The sign-in
/// has happened: a failure is only logged.
pub(crate) async fn evict(cx: &CommandContext<'_>, user_id: UserId, newest: SessionId) {
    let limit = cx.commands.settings().sessions_per_user;
    if limit == 0 {
        return;
    }
    let mut retry = cx.retry();
    loop {
        match evict_once(cx, user_id, newest, limit).await {
            Ok(()) => return,
            Err(error) => {
                if let Err(error) = retry.after(error).await {
                    tracing::error!(user.id = %user_id, %error, "a user may have more sessions than allowed");
                    return;
                }
            }
        }
    }
}

async fn evict_once(
    cx: &CommandContext<'_>,
    user_id: UserId,
    newest: SessionId,
    limit: usize,
) -> Result<(), CommandError> {
    let listed = live_sessions(cx, user_id).await?;
    if listed.len() <= limit {
        return Ok(());
    }
    // Not under the idempotency key of the request: the sign-in itself was.
    let mut unit = UnitOfWork::beforehand(cx);
    let at = unit.now();
    let mut live: Vec<(Timestamp, Staged<Session>)> = Vec::new();
    for session_id in listed {
        let read: Staged<Session> = unit.load(session_id).await?;
        match (read.state.is_live(at), read.state.last_used_at) {
            (true, Some(used)) => live.push((used, read)),
            (false, _) if read.state.status == Some(SessionStatus::Live) => {
                unit.stage(read, [SessionCommand::Expire { at }])?;
            }
            _ => {}
        }
    }
    let excess = live.len().saturating_sub(limit);
    live.retain(|(_, read)| read.id != newest);
    live.sort_by_key(|(used, read)| (*used, read.id.as_uuid()));
    for (_, read) in live.into_iter().take(excess) {
        let reason = RevocationReason::SessionLimitExceeded;
        unit.stage(read, [SessionCommand::Revoke { reason, at }])?;
    }
    unit.commit().await.map(drop)
}
