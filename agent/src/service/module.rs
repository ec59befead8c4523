//! `ModuleService`: what procfs and sysfs tell of this host's kernel modules.

use super::blocking::blocking;
use super::chunks::{Chunks, chunks};
use super::system::taints_to_proto;
use crate::access::role;
use crate::status::kernel;
use crate::text::{text, text_or_empty};
use agent_kernel::file::Roots;
use agent_kernel::sys::{Module, ModuleQuery, Parameter, modules};
use kctl_proto::agent::v1::{self as pb, module_service_server::ModuleService};
use kctl_rpc::Role;
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// Answers for the modules of one procfs and one sysfs.
#[derive(Debug)]
pub(super) struct Modules {
    proc_root: PathBuf,
    sys_root: PathBuf,
}

impl Modules {
    pub(super) fn new(roots: &Roots) -> Self {
        Self { proc_root: roots.proc.clone(), sys_root: roots.sys.clone() }
    }
}

#[tonic::async_trait]
impl ModuleService for Modules {
    type ListModulesStream = Chunks<pb::ListModulesResponse>;

    async fn list_modules(
        &self,
        request: Request<pb::ListModulesRequest>,
    ) -> Result<Response<Self::ListModulesStream>, Status> {
        let secret = role(&request) == Role::Admin;
        let request = request.into_inner();
        let query = ModuleQuery { name: request.name, all: request.all, secret };
        let (proc_root, sys_root) = (self.proc_root.clone(), self.sys_root.clone());
        let found = blocking(move || modules(&proc_root, &sys_root, &query)).await?;
        let found = found.into_iter().map(|module| Ok(module_to_proto(module)));
        let message = |modules| pb::ListModulesResponse { modules };
        Ok(Response::new(chunks(found, message, kernel)))
    }
}

fn module_to_proto(module: Module) -> pb::Module {
    let parameter = |parameter: Parameter| pb::module::Parameter {
        name: parameter.name,
        value: parameter.value.as_deref().map(text),
    };
    pb::Module {
        name: module.name,
        size_bytes: module.size_bytes,
        users: module.users,
        used_by: module.used_by,
        state: module.state,
        taint: taints_to_proto(&module.taints),
        version: text_or_empty(module.version),
        srcversion: module.srcversion.unwrap_or_default(),
        parameters: module.parameters.into_iter().map(parameter).collect(),
        built_in: module.built_in,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use std::collections::BTreeMap;
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn what_only_root_may_read_is_told_to_admins_alone() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("sys/module/own/parameters");
        create_dir_all(&folder).expect("a folder");
        create_dir_all(root.path().join("proc")).expect("a folder");
        write(root.path().join("proc/modules"), "own 1 0 - Live 0x0 (OE)\n").expect("written");
        for (name, mode) in [("public", 0o444), ("secret", 0o600)] {
            write(folder.join(name), b"x\xc3\n").expect("written");
            set_permissions(folder.join(name), Permissions::from_mode(mode)).expect("a mode");
        }
        let (proc, sys) = (root.path().join("proc"), root.path().join("sys"));
        let service = Modules::new(&Roots { proc, sys });
        let roles = [(Role::Admin, Some("x\\xc3")), (Role::Operator, None), (Role::Viewer, None)];
        for (role, secret) in roles {
            let mut request = Request::new(pb::ListModulesRequest::default());
            request.extensions_mut().insert(role);
            let answer = service.list_modules(request).await.expect("modules").into_inner();
            let parts: Vec<_> = answer.map(|part| part.expect("a part")).collect().await;
            let module = &parts[0].modules[0];
            let letters: String = module.taint.iter().map(|taint| taint.letter.as_str()).collect();
            assert_eq!((module.name.as_str(), letters.as_str()), ("own", "OE"));
            let told: BTreeMap<_, _> = module
                .parameters
                .iter()
                .map(|parameter| (parameter.name.as_str(), parameter.value.as_deref()))
                .collect();
            assert_eq!(told, [("public", Some("x\\xc3")), ("secret", secret)].into());
        }
    }
}
