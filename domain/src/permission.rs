//! Permissions, and the roles that grant them. Whatever is not granted is denied.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)+) => {
        /// The right to do one kind of thing, `<noun>.<verb>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Permission {
            $($(#[$meta])* #[serde(rename = $text)] $name,)+
        }

        impl Permission {
            /// Every permission there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stored name, such as `content.read`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

permissions! {
    /// See content nodes and their field values, drafts included.
    ContentRead = "content.read",
    /// Add content nodes.
    ContentCreate = "content.create",
    /// Change, move and publish content nodes.
    ContentUpdate = "content.update",
    /// Delete content nodes.
    ContentDelete = "content.delete",
    /// See datatypes and their fields.
    DatatypeRead = "datatype.read",
    /// Add datatypes.
    DatatypeCreate = "datatype.create",
    /// Change datatypes and attach fields to them.
    DatatypeUpdate = "datatype.update",
    /// Delete datatypes.
    DatatypeDelete = "datatype.delete",
    /// See field definitions.
    FieldRead = "field.read",
    /// Add field definitions.
    FieldCreate = "field.create",
    /// Change field definitions.
    FieldUpdate = "field.update",
    /// Delete field definitions.
    FieldDelete = "field.delete",
    /// See routes.
    RouteRead = "route.read",
    /// Add routes.
    RouteCreate = "route.create",
    /// Change routes.
    RouteUpdate = "route.update",
    /// Delete routes.
    RouteDelete = "route.delete",
    /// See other people's accounts.
    UserRead = "user.read",
    /// Create, change, disable and enable other people's accounts.
    UserManage = "user.manage",
    /// Read the audit trail.
    AuditRead = "audit.read",
    /// See personal data in the audit trail.
    PersonalRead = "personal.read",
    /// See how far read models are.
    ProjectionRead = "projection.read",
    /// Rebuild read models.
    ProjectionRebuild = "projection.rebuild",
    /// Invite people into any organization. Owners and admins of an organization need no such right for their own.
    OrganizationInvite = "organization.invite",
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A permission name that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown permission {0:?}")]
pub struct UnknownPermission(pub String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    /// Reads `noun.verb`, and `noun:verb` as the Aragora contract's clients spell it.
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Self::ALL
            .iter()
            .copied()
            .find(|permission| {
                permission.as_str().split_once('.') == text.split_once('.').or_else(|| text.split_once(':'))
            })
            .ok_or_else(|| UnknownPermission(text.to_owned()))
    }
}

/// What a user is allowed to do as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Administrator,
    /// All work on content, datatypes, fields and routes.
    Editor,
    /// Reading content, datatypes, fields and routes.
    Viewer,
}

impl Role {
    /// Every role there is.
    pub const ALL: &'static [Self] = &[Self::Administrator, Self::Editor, Self::Viewer];

    /// The stored name, such as `administrator`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }

    /// Whether this role grants `permission`.
    #[must_use]
    pub const fn permits(self, permission: Permission) -> bool {
        // Every permission is named, so that a new one must be granted on purpose.
        match permission {
            Permission::ContentRead | Permission::DatatypeRead | Permission::FieldRead | Permission::RouteRead => true,
            Permission::ContentCreate
            | Permission::ContentUpdate
            | Permission::ContentDelete
            | Permission::DatatypeCreate
            | Permission::DatatypeUpdate
            | Permission::DatatypeDelete
            | Permission::FieldCreate
            | Permission::FieldUpdate
            | Permission::FieldDelete
            | Permission::RouteCreate
            | Permission::RouteUpdate
            | Permission::RouteDelete => matches!(self, Self::Administrator | Self::Editor),
            Permission::UserRead
            | Permission::UserManage
            | Permission::AuditRead
            | Permission::PersonalRead
            | Permission::ProjectionRead
            | Permission::ProjectionRebuild
            | Permission::OrganizationInvite => matches!(self, Self::Administrator),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role name that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .iter()
            .copied()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Permission, Role};

    fn granted(role: Role) -> Vec<&'static str> {
        Permission::ALL
            .iter()
            .filter(|permission| role.permits(**permission))
            .map(|permission| permission.as_str())
            .collect()
    }

    #[test]
    fn an_administrator_may_do_everything() {
        assert_eq!(granted(Role::Administrator).len(), Permission::ALL.len());
    }

    #[test]
    fn an_editor_may_do_all_content_work_and_nothing_else() {
        let names = granted(Role::Editor);
        assert_eq!(names.len(), 16);
        for name in names {
            let (noun, _) = name.split_once('.').unwrap();
            assert!(["content", "datatype", "field", "route"].contains(&noun), "{name}");
        }
    }

    #[test]
    fn a_viewer_may_only_read_content() {
        let names = ["content.read", "datatype.read", "field.read", "route.read"];
        assert_eq!(granted(Role::Viewer), names);
    }

    #[test]
    fn names_read_back_in_both_spellings() {
        for permission in Permission::ALL {
            let name = permission.as_str();
            assert_eq!(name.parse(), Ok(*permission));
            assert_eq!(name.replace('.', ":").parse(), Ok(*permission));
            assert_eq!(serde_json::to_value(permission).unwrap(), name);
        }
        assert!("content".parse::<Permission>().is_err());
        assert!("content.reads".parse::<Permission>().is_err());
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!("owner".parse::<Role>().is_err());
    }
}
