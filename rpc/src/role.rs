//! What a person may see and do. Who has which role is settled elsewhere.

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
