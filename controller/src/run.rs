//! Puts the parts together and takes them apart again.

use crate::{
    auth::Gate,
    authority::Ca,
    config::{Config, HistoryConfig, from_here},
    data_dir::{Admin, DataDir},
    events::{BOUND, Events, History, Kept, Limits},
    join::Join,
    listen::{Listener, Services},
    observed::{self, Observable},
    registry::Registry,
    service::{Api, escalation},
    session::Sessions,
    standing,
    store::Store,
};
use anyhow::Context as _;
use kctl_blocklist::now_unix_ms;
use kctl_proto::controller::v1::{
    audit_service_server::AuditServiceServer, authority_service_server::AuthorityServiceServer,
    blocklist_service_server::BlocklistServiceServer,
    controller_service_server::ControllerServiceServer,
    cpufreq_service_server::CpufreqServiceServer, disk_service_server::DiskServiceServer,
    events_service_server::EventsServiceServer, file_service_server::FileServiceServer,
    hosts_service_server::HostsServiceServer, ipc_service_server::IpcServiceServer,
    join_service_server::JoinServiceServer, module_service_server::ModuleServiceServer,
    netlink_service_server::NetlinkServiceServer, perf_service_server::PerfServiceServer,
    process_service_server::ProcessServiceServer, stats_service_server::StatsServiceServer,
    system_service_server::SystemServiceServer, token_service_server::TokenServiceServer,
    user_service_server::UserServiceServer,
};
use kctl_rpc::{Identity, MAX_MESSAGE_BYTES};
use std::{collections::BTreeSet, io, net::IpAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

/// Calls that run get this long to end.
const DRAIN: Duration = Duration::from_secs(5);
/// A join is a few kilobytes, and nobody has been asked who they are yet.
const MAX_JOIN_BYTES: usize = 64 << 10;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    // Keys, tokens and the store with its side files: for nobody else.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let data_dir = Arc::new(DataDir::open(&config.data_dir)?);
    let identity = Identity::Controller(config.name.clone());
    let tcp = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen address {}", config.listen))?;
    let bound = tcp.local_addr()?;
    let server = config.server(bound);
    let given = config.ca.as_ref();
    let ca = Ca::open(Arc::clone(&data_dir), given, identity.clone(), server, config.life)?;
    let (store, store_thread) = data_dir.store()?;
    standing::keep(&store, config.join_token_file.as_deref()).await?;
    let admin = ca.admin(&store).await?;

    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    let registry = Registry::new(store.records());
    let alerts = config.alerts.clone();
    let sessions =
        Sessions::new(store.clone(), registry.clone(), ca.clone(), alerts, cancel.clone());
    let (kept, history_thread) = open_history(&config, &data_dir.events_path())?.unzip();
    let events = Events::start(registry.clone(), kept, BOUND, &tracker, cancel.clone());
    let api = Api {
        events,
        store: store.clone(),
        registry,
        ca: ca.clone(),
        addresses: Arc::new(own_addresses(&config)),
        escalates: config.escalation.is_some(),
        tasks: tracker.clone(),
    };
    let observable = Observable {
        store: store.clone(),
        registry: api.registry.clone(),
        events: api.events.clone(),
        ca: ca.clone(),
        address: from_here(bound),
        store_path: data_dir.store_path(),
        events_path: data_dir.events_path(),
    };
    observed::start(config.metrics.clone(), observable, &tracker, &cancel);
    if let Some(escalation) = config.escalation {
        tracker.spawn(escalation::run(api.clone(), escalation, cancel.clone()));
    }
    let services = Services {
        join: join_routes(Join::new(store.clone(), ca.clone())),
        api: api_routes(api).await,
        gate: Gate::new(store.clone(), tracker.clone(), config.limits),
        sessions,
    };
    let records = store.records();
    let listener = Listener::new(ca.clone(), records, services, tracker.clone(), cancel.clone())?;
    tracker.spawn(ca.keep(store.clone(), cancel.clone()));
    tracker.spawn(sweep(store, cancel.clone()));
    tracker.spawn(listener.clone().reload());
    tracker.spawn(listener.run(tcp));

    let data = &config.data_dir;
    tracing::info!(address = %bound, %identity, data_dir = %data.display(), "controller: listening");
    if let Some(Admin { path, .. }) = admin {
        tracing::info!("controller: administer it with: KCTL_CONFIG={} kctl hosts", path.display());
    }
    wait_for_end().await?;
    tracing::info!("controller: stopping");
    cancel.cancel();
    tracker.close();
    if timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("controller: gave up on calls that do not end");
    }
    if let Some(thread) = history_thread {
        finish("history", thread).await?;
    }
    finish("store", store_thread).await
}

/// The history of events, unless it is switched off.
fn open_history(
    config: &Config,
    path: &Path,
) -> anyhow::Result<Option<(Kept, std::thread::JoinHandle<()>)>> {
    let HistoryConfig { bytes, age, kinds } = config.history;
    if bytes == 0 {
        return Ok(None);
    }
    let runtime = tokio::runtime::Handle::current();
    let (history, places, thread) = History::open(path, Limits { bytes, age }, runtime)
        .with_context(|| {
            format!("history {path:?}: can't be opened; --history-bytes 0 goes without")
        })?;
    Ok(Some((Kept { history, kinds, places }, thread)))
}

/// The owner of a file ends when nobody can ask it any more; what it has taken is on disk by then.
async fn finish(what: &str, thread: std::thread::JoinHandle<()>) -> anyhow::Result<()> {
    let ended = tokio::task::spawn_blocking(move || thread.join());
    match timeout(DRAIN, ended).await {
        Ok(joined) => joined?.map_err(|_| anyhow::anyhow!("{what}: its thread panicked")),
        Err(_) => Ok(()),
    }
}

/// Addresses in the configuration that are written as such.
fn own_addresses(config: &Config) -> BTreeSet<IpAddr> {
    let advertised = config.advertise.iter().filter_map(|text| {
        let (host, _) = text.rsplit_once(':')?;
        host.trim_matches(['[', ']']).parse().ok()
    });
    let listened = Some(config.listen.ip()).filter(|ip| !ip.is_unspecified());
    advertised.chain(listened).map(|ip: IpAddr| ip.to_canonical()).collect()
}

async fn wait_for_end() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => tracing::warn!(
                "controller: SIGHUP: no setting can be reloaded yet; restart it to change settings"
            ),
        }
    }
}

fn join_routes(join: Join) -> Routes {
    Routes::new(JoinServiceServer::new(join).max_decoding_message_size(MAX_JOIN_BYTES))
}

async fn api_routes(api: Api) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<BlocklistServiceServer<Api>>().await;
    reporter.set_serving::<HostsServiceServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kctl_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("descriptors come from our own build");
    let blocklist =
        BlocklistServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(blocklist)
        .add_service(HostsServiceServer::new(api.clone()))
        .add_service(StatsServiceServer::new(api.clone()))
        .add_service(NetlinkServiceServer::new(api.clone()))
        .add_service(ProcessServiceServer::new(api.clone()))
        .add_service(SystemServiceServer::new(api.clone()))
        .add_service(FileServiceServer::new(api.clone()))
        .add_service(CpufreqServiceServer::new(api.clone()))
        .add_service(DiskServiceServer::new(api.clone()))
        .add_service(ModuleServiceServer::new(api.clone()))
        .add_service(IpcServiceServer::new(api.clone()))
        .add_service(PerfServiceServer::new(api.clone()))
        .add_service(EventsServiceServer::new(api.clone()))
        .add_service(TokenServiceServer::new(api.clone()))
        .add_service(UserServiceServer::new(api.clone()))
        .add_service(AuditServiceServer::new(api.clone()))
        .add_service(AuthorityServiceServer::new(api.clone()))
        .add_service(ControllerServiceServer::new(api))
        .add_service(health)
        .add_service(reflection)
        .prepare()
}

/// Removes entries that are over. Kernels stop enforcing them by themselves and on time; this keeps
/// the list and the digests true.
async fn sweep(store: Store, cancel: CancellationToken) {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = now_unix_ms();
        if store.desired().borrow().ended(now).next().is_none() {
            continue;
        }
        let swept = store.write(move |model| {
            let writes: Vec<_> = model.desired.ended(now).collect();
            let count = writes.len();
            Ok((writes, count))
        });
        match swept.await {
            Ok(swept) => tracing::debug!(
                entries = swept.value,
                revision = swept.revision,
                "sweep: removed expired entries"
            ),
            Err(error) => tracing::warn!(%error, "sweep: expired entries stay"),
        }
    }
}
