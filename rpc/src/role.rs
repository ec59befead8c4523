//! What a person may see and do. Who has which role is settled elsewhere.

use tonic::Status;

/// A role of a person; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads that show no secrets.
    Viewer,
    /// And what is done in an incident: block, unblock, signal.
    Operator,
    /// And secrets, kernel settings, and who may do what.
    Admin,
}

/// Metadata of a call that the controller makes for a person: the person's role, as in
/// [`Role::name`]. An agent believes it from its controller alone.
pub const ROLE_METADATA: &str = "kctl-role";

impl Role {
    /// `viewer`, `operator`, `admin`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether it may see the arguments of processes: they hold passwords now and then.
    pub fn shows_arguments(self) -> bool {
        self >= Self::Operator
    }

    /// The refusal for one who asks for them and may not see them. `what` is the object.
    pub fn refuses_arguments(self, what: &str) -> Status {
        Status::permission_denied(format!(
            "{what}: arguments of processes are for the role operator; yours is {}",
            self.name()
        ))
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_names_and_an_order() {
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert_eq!(Role::named("root"), None);
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
