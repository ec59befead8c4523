//! Who may call what: every method of every service stands here, once. Controller and agents ask this
//! table before a handler hears of a call, and refuse what is not in it.
//!
//! A new method is a line below; a test compares the table with the compiled descriptors. What depends
//! on the arguments of a call (a file that holds secrets, a host outside of somebody's scope) is decided
//! where the arguments are known, and only ever narrows what stands here.

use crate::Role;
use tonic::{Code, Status};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Hosts that join and have nothing but a token.
    Join,
    /// The controller, of an agent; no person.
    Controller,
    /// People of this role and above.
    People {
        /// The least role.
        least: Role,
        /// Whether it changes something: such calls are in the audit log, also refused ones.
        change: bool,
        /// Whether it is about the whole fleet, so that nobody with a scope may call it.
        fleet: bool,
    },
}

const fn read(least: Role) -> Access {
    Access::People { least, change: false, fleet: false }
}

const fn change(least: Role) -> Access {
    Access::People { least, change: true, fleet: false }
}

/// What has no hosts that a scope could be about.
const fn fleet(access: Access) -> Access {
    match access {
        Access::People { least, change, .. } => Access::People { least, change, fleet: true },
        other => other,
    }
}

use Role::{Admin, Operator, Viewer};

/// A service and its methods.
type Service = (&'static str, &'static [(&'static str, Access)]);

/// Services that the controller has for the fleet and agents for one host: the same methods, for the
/// same people.
const TWINS: &[Service] = &[
    (
        "NetlinkService",
        &[
            ("ListLinks", read(Viewer)),
            ("ListAddrs", read(Viewer)),
            ("ListRoutes", read(Viewer)),
            ("ListNeighbours", read(Viewer)),
            ("ListRules", read(Viewer)),
            ("ListLinkStats", read(Viewer)),
            ("ListSockets", read(Viewer)),
            ("ListConnections", read(Viewer)),
        ],
    ),
    (
        "ProcessService",
        &[
            // Without their arguments for viewers.
            ("ListProcesses", read(Viewer)),
            ("GetProcessStatus", read(Viewer)),
            ("ListMaps", read(Admin)),
            ("ListFds", read(Viewer)),
            ("ListEnvironment", read(Admin)),
            ("ListLimits", read(Viewer)),
            ("GetProcessIo", read(Viewer)),
            ("ListCgroups", read(Viewer)),
            ("ListNamespaces", read(Viewer)),
            ("SignalProcess", change(Operator)),
        ],
    ),
    ("SystemService", &[("GetSystem", read(Viewer))]),
    ("DiskService", &[("ListDisks", read(Viewer)), ("ListMounts", read(Viewer))]),
    // Without addresses in the kernel for all but admins.
    ("ModuleService", &[("ListModules", read(Viewer))]),
    ("IpcService", &[("ListIpc", read(Viewer))]),
    // Names of processes, and no arguments.
    ("PerfService", &[("WatchCounters", read(Viewer))]),
    (
        "FileService",
        &[
            // What holds secrets is for admins, by path.
            ("ReadFile", read(Viewer)),
            ("ListValues", read(Viewer)),
            ("SetValue", change(Admin)),
        ],
    ),
    ("CpufreqService", &[("ListCpufreq", read(Viewer)), ("SetCpufreq", change(Admin))]),
    ("StatsService", &[("GetStats", read(Viewer))]),
    // Without the arguments of processes for viewers.
    ("EventsService", &[("WatchEvents", read(Viewer))]),
];

const AGENT: &[Service] = &[
    (
        "HostService",
        &[
            ("GetStatus", read(Viewer)),
            ("Session", Access::Controller),
            ("Detach", Access::Controller),
        ],
    ),
    (
        "BlocklistService",
        &[
            ("ApplyBlocklist", Access::Controller),
            ("ListBlocklist", read(Viewer)),
            ("ListHits", read(Viewer)),
            ("ListPeers", read(Viewer)),
            ("Block", change(Operator)),
            ("Unblock", change(Operator)),
        ],
    ),
];

const CONTROLLER: &[Service] = &[
    ("JoinService", &[("Join", Access::Join)]),
    ("ControllerService", &[("GetVersion", read(Viewer))]),
    (
        "HostsService",
        &[
            ("ListHosts", read(Viewer)),
            ("RemoveHosts", change(Admin)),
            ("AdoptHosts", change(Admin)),
        ],
    ),
    (
        "BlocklistService",
        &[
            ("Block", change(Operator)),
            ("Unblock", change(Operator)),
            ("ImportFeed", change(Operator)),
            ("ListFeeds", read(Viewer)),
            ("ListBlocklist", read(Viewer)),
            ("RecoverBlocklist", fleet(change(Admin))),
        ],
    ),
    (
        "TokenService",
        &[
            ("CreateToken", fleet(change(Admin))),
            ("ListTokens", fleet(read(Admin))),
            ("RevokeToken", fleet(change(Admin))),
        ],
    ),
    (
        "UserService",
        &[
            ("CreateUser", fleet(change(Admin))),
            ("ListUsers", fleet(read(Admin))),
            ("RevokeUser", fleet(change(Admin))),
            // Everybody for himself; for others it is for admins.
            ("RenewUser", change(Viewer)),
        ],
    ),
    ("AuditService", &[("ListAudit", fleet(read(Admin))), ("VerifyAudit", fleet(read(Admin)))]),
    (
        "AuthorityService",
        &[
            ("GetAuthority", fleet(read(Admin))),
            ("RotateAuthority", fleet(change(Admin))),
            ("FinishRotation", fleet(change(Admin))),
        ],
    ),
];

/// What both have of gRPC itself.
const COMMON: &[Service] = &[
    ("grpc.health.v1.Health", &[("Check", read(Viewer)), ("Watch", read(Viewer))]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", read(Viewer))]),
];

const AGENT_PACKAGE: &str = "kctl.agent.v1";
const CONTROLLER_PACKAGE: &str = "kctl.controller.v1";

impl Access {
    /// Who may call the method of a path, `/PACKAGE.SERVICE/METHOD`. UNIMPLEMENTED: nobody, it is not in
    /// the table.
    pub fn of(path: &str) -> Result<Self, Status> {
        Self::find(path).ok_or_else(|| unknown(path))
    }

    fn find(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let found = |services: &[Service], service: &str| {
            let (_, methods) = services.iter().find(|(name, _)| *name == service)?;
            methods.iter().find(|(name, _)| *name == method).map(|(_, access)| *access)
        };
        let (package, name) = service.rsplit_once('.')?;
        match package {
            AGENT_PACKAGE => found(AGENT, name).or_else(|| found(TWINS, name)),
            CONTROLLER_PACKAGE => found(CONTROLLER, name).or_else(|| found(TWINS, name)),
            _ => found(COMMON, service),
        }
    }

    /// Lets people of enough a role in. PERMISSION_DENIED: what role it wants; UNIMPLEMENTED: it is not
    /// for people at all.
    pub fn permit(self, path: &str, role: Role) -> Result<(), Status> {
        let method = path.rsplit('/').next().unwrap_or(path);
        match self {
            Self::People { least, .. } if role >= least => Ok(()),
            Self::People { least, .. } => Err(Status::permission_denied(format!(
                "{method}: it wants the role {}; yours is {}: ask an admin",
                least.name(),
                role.name()
            ))),
            Self::Controller => {
                Err(Status::permission_denied(format!("{method}: only the controller may call it")))
            }
            Self::Join => Err(unknown(path)),
        }
    }

    /// Whether it changes something.
    pub fn is_change(self) -> bool {
        matches!(self, Self::People { change: true, .. })
    }

    /// Every path of the table.
    pub fn paths() -> impl Iterator<Item = String> {
        let of = |package: Option<&'static str>, services: &'static [Service]| {
            services.iter().flat_map(move |(service, methods)| {
                methods.iter().map(move |(method, _)| match package {
                    Some(package) => format!("/{package}.{service}/{method}"),
                    None => format!("/{service}/{method}"),
                })
            })
        };
        of(Some(AGENT_PACKAGE), AGENT)
            .chain(of(Some(AGENT_PACKAGE), TWINS))
            .chain(of(Some(CONTROLLER_PACKAGE), CONTROLLER))
            .chain(of(Some(CONTROLLER_PACKAGE), TWINS))
            .chain(of(None, COMMON))
    }
}

const NO_SUCH_CALL: &str = ": no such call here; is it of a later version?";

fn unknown(path: &str) -> Status {
    Status::unimplemented(format!("{path}{NO_SUCH_CALL}"))
}

/// What a server does not have, as its answer to a call says; `None` when it says something else.
pub fn unknown_call(status: &Status) -> Option<&str> {
    if status.code() != Code::Unimplemented {
        return None;
    }
    match status.message() {
        // That is what gRPC itself says.
        "" => Some("this call"),
        said => said.strip_suffix(NO_SUCH_CALL)?.rsplit('/').next(),
    }
}
