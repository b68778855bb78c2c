//! A tunnel under the service control manager (SCM).
#![allow(unsafe_code)] // In the macro of windows-service, for the function that the SCM calls.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    sync,
};
use windows_service::{
    define_windows_service,
    service::{
        PowerEventParam, Service, ServiceAccess, ServiceControl, ServiceControlAccept, ServiceDependency,
        ServiceErrorControl, ServiceExitCode, ServiceInfo, ServiceSidType, ServiceStartType, ServiceState,
        ServiceStatus, ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
    service_manager::{ServiceManager, ServiceManagerAccess},
};

use crate::{
    conf_file, names,
    ring_log::RingLog,
    supervise::{Control, Ending, Sources, supervise},
    system::{Changes, Severity, decrypt, report},
    tunnel::Tunnel,
};

/// The name of the log file, beside the file of the tunnel.
pub const LOG_FILE: &str = "log.bin";

/// The error of Windows for a process that the SCM has not started.
const FAILED_SERVICE_CONTROLLER_CONNECT: i32 = 1063;

/// How long the SCM waits for the next report during a start or a stop. Looking up names may pause for four seconds.
const WAIT_HINT: Duration = Duration::from_secs(30);

/// How long [`uninstall`] waits for a service to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Returns the name of the service of a tunnel, that of wireguard-windows: `WireGuardTunnel$NAME`.
#[must_use]
pub fn name_of(tunnel: &str) -> String {
    format!("WireGuardTunnel${tunnel}")
}

/// The service that this process is, and its outcome.
struct Run {
    conf: PathBuf,
    outcome: Option<Result<()>>,
}

/// The function that the SCM calls has no other way to get at it.
static RUN: Mutex<Option<Run>> = Mutex::new(None);

define_windows_service!(service_entry, service_main);

/// Runs the tunnel of a file as the service that this process was started for by the SCM, until it is stopped. The log
/// is [`LOG_FILE`] in the folder of the file.
///
/// # Errors
/// `Busy` if the process runs a service already; `Invalid` for the name of the file; `Unsupported` if the process was
/// not started by the SCM; or why the tunnel has failed, which the SCM and the event log get as well.
pub fn run(conf: &Path) -> Result<()> {
    let name = name_of(&conf_file::name_of(conf)?);
    let mut current = sync::lock(&RUN);
    if current.is_some() {
        return Err(Error::new(ErrorKind::Busy, "this process runs a service already"));
    }
    *current = Some(Run { conf: conf.to_owned(), outcome: None });
    drop(current);
    let dispatched = service_dispatcher::start(name, service_entry);
    let outcome = sync::lock(&RUN).take().and_then(|run| run.outcome);
    dispatched.map_err(not_dispatched)?;
    outcome.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "the service has ended before it began")))
}

fn not_dispatched(error: windows_service::Error) -> Error {
    match &error {
        windows_service::Error::Winapi(io) if io.raw_os_error() == Some(FAILED_SERVICE_CONTROLLER_CONNECT) => {
            Error::new(ErrorKind::Unsupported, "this command is for the service manager: install the service, start it")
        }
        _ => failed("cannot connect to the service manager", error),
    }
}

/// On a thread of its own, once the SCM has the process.
fn service_main(_: Vec<OsString>) {
    let Some(conf) = sync::lock(&RUN).as_ref().map(|run| run.conf.clone()) else { return };
    let registered = conf_file::name_of(&conf).and_then(|tunnel| Ok((register(&name_of(&tunnel))?, tunnel)));
    match registered {
        Ok(((status, controls), tunnel)) => serve(&conf, &tunnel, &status, controls),
        Err(error) => keep(Err(error)),
    }
}

/// Keeps the outcome for [`run`]; the first failure counts.
fn keep(outcome: Result<()>) {
    if let Some(run) = sync::lock(&RUN).as_mut()
        && !matches!(run.outcome, Some(Err(_)))
    {
        run.outcome = Some(outcome);
    }
}

fn serve(conf: &Path, tunnel: &str, status: &Status, controls: Receiver<Control>) {
    let name = name_of(tunnel);
    let outcome = status
        .tell(ServiceState::StartPending, ServiceExitCode::NO_ERROR)
        .and_then(|()| run_logged(conf, tunnel, status, controls));
    match &outcome {
        Ok(()) => report(&name, Severity::Information, "The tunnel has been stopped."),
        Err(error) => report(&name, Severity::Error, &format!("The tunnel has ended: {error}")),
    }
    let code = match &outcome {
        Ok(()) => ServiceExitCode::NO_ERROR,
        Err(error) => ServiceExitCode::ServiceSpecific(error.kind().code().unsigned_abs()),
    };
    // Before the SCM is told: from then on `run` may return, and the process end.
    keep(outcome);
    if let Err(error) = status.tell(ServiceState::Stopped, code) {
        keep(Err(error));
    }
}

/// Runs the tunnel with its log, which also gets the outcome.
fn run_logged(conf: &Path, tunnel: &str, status: &Status, controls: Receiver<Control>) -> Result<()> {
    let path = conf.with_file_name(LOG_FILE);
    let log = RingLog::open(&path, tunnel)
        .map_err(|error| Error::io(format!("cannot open the log {}", path.display()), error))?;
    tracing::dispatcher::with_default(&tracing::Dispatch::new(log), || {
        let outcome = tunnel_until_end(conf, tunnel, status, controls);
        match &outcome {
            Ok(()) => tracing::info!("the tunnel has been stopped"),
            Err(error) => tracing::error!("{error}"),
        }
        outcome
    })
}

fn tunnel_until_end(conf: &Path, name: &str, service: &Status, controls: Receiver<Control>) -> Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let mut conf = conf_file::read(conf, decrypt)?;
    // A control ends the pause; only stopping is one before the service runs.
    let mut pause = |time| {
        let told = service.tell(ServiceState::StartPending, ServiceExitCode::NO_ERROR);
        told.is_ok() && controls.recv_timeout(time).is_err()
    };
    match names::resolve(&mut conf.update, &mut names::look_up, &mut pause) {
        // Stopped before it began, which is no failure.
        Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
        resolved => resolved?,
    }
    let (changes, changed) = Changes::new()?;
    let (mut tunnel, ended) = Tunnel::start(name, conf)?;
    service.tell(ServiceState::Running, ServiceExitCode::NO_ERROR)?;
    report(&name_of(name), Severity::Information, "The tunnel has been started.");
    let ending = supervise(&Sources { controls, ended, changes: changed }, &mut tunnel);
    let told = service.tell(ServiceState::StopPending, ServiceExitCode::NO_ERROR);
    drop(changes);
    tunnel.stop()?;
    match ending {
        Ending::Stopped => told,
        Ending::Ended(reason) => Err(Error::new(ErrorKind::Closed, reason)),
    }
}

/// What the SCM is told about the service.
struct Status {
    handle: ServiceStatusHandle,
    /// How often it was told of the same pending state.
    checkpoint: Mutex<(ServiceState, u32)>,
}

/// Registers for controls, which are then received.
fn register(name: &str) -> Result<(Status, Receiver<Control>)> {
    // Without a limit, so that no request to stop is lost; the SCM sends a few.
    let (sender, receiver) = unbounded();
    let handle = service_control_handler::register(name, move |control| on_control(&control, &sender))
        .map_err(|error| failed("cannot register with the service manager", error))?;
    Ok((Status { handle, checkpoint: Mutex::new((ServiceState::Stopped, 0)) }, receiver))
}

/// On a thread of the SCM, which must not wait.
fn on_control(control: &ServiceControl, controls: &Sender<Control>) -> ServiceControlHandlerResult {
    let control = match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => Control::Stop,
        ServiceControl::PowerEvent(PowerEventParam::ResumeAutomatic) => Control::Resumed,
        ServiceControl::PowerEvent(_) | ServiceControl::Interrogate => return ServiceControlHandlerResult::NoError,
        _ => return ServiceControlHandlerResult::NotImplemented,
    };
    // Nothing receives it if the service is ending already.
    let _ = controls.send(control);
    ServiceControlHandlerResult::NoError
}

impl Status {
    fn tell(&self, state: ServiceState, exit_code: ServiceExitCode) -> Result<()> {
        let is_pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
        let mut last = sync::lock(&self.checkpoint);
        let checkpoint = if is_pending && last.0 == state { last.1 + 1 } else { 0 };
        *last = (state, checkpoint);
        let controls_accepted = match state {
            ServiceState::Running => {
                ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN | ServiceControlAccept::POWER_EVENT
            }
            ServiceState::StartPending => ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN,
            _ => ServiceControlAccept::empty(),
        };
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted,
            exit_code,
            checkpoint,
            wait_hint: if is_pending { WAIT_HINT } else { Duration::ZERO },
            process_id: None,
        };
        self.handle.set_service_status(status).map_err(|error| failed("the service manager refuses a state", error))
    }
}

/// Installs the service of a tunnel and starts it. `program` is started by the SCM with `arguments`, and must then call
/// [`run`]. The service starts with the system. A service that cannot be started is removed again.
///
/// # Errors
/// `Exists` if there is one; `Permission` without the rights of an administrator; `Invalid` for the name of the file;
/// other errors of the SCM.
pub fn install(conf: &Path, program: &Path, arguments: Vec<OsString>) -> Result<()> {
    let tunnel = conf_file::name_of(conf)?;
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&OsStr>, access).map_err(no_manager)?;
    let dependency = |name: &str| ServiceDependency::Service(name.into());
    let info = ServiceInfo {
        name: name_of(&tunnel).into(),
        display_name: format!("WireGuard Tunnel: {tunnel}").into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program.to_owned(),
        launch_arguments: arguments,
        dependencies: vec![dependency("Nsi"), dependency("TcpIp")],
        account_name: None, // LocalSystem
        account_password: None,
    };
    let access = ServiceAccess::START | ServiceAccess::CHANGE_CONFIG | ServiceAccess::DELETE;
    let service = manager.create_service(&info, access).map_err(|error| failed("cannot create the service", error))?;
    // The firewall and the pipe know the service by it. Wine has none.
    if let Err(error) = service.set_config_service_sid_info(ServiceSidType::Unrestricted) {
        tracing::warn!(%error, "the service has no SID of its own");
    }
    service.start(&[] as &[&OsStr]).map_err(|error| {
        let error = failed("cannot start the service", error);
        match service.delete() {
            Ok(()) => error,
            Err(left) => error.at(format_args!("the service is left ({left})")),
        }
    })
}

/// Stops the service of a tunnel and removes it.
///
/// # Errors
/// `NotFound` if there is none; `TimedOut` if it does not stop within a minute; `Permission` without the rights of an
/// administrator; other errors of the SCM.
pub fn uninstall(tunnel: &str) -> Result<()> {
    let manager = ServiceManager::local_computer(None::<&OsStr>, ServiceManagerAccess::CONNECT).map_err(no_manager)?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service =
        manager.open_service(name_of(tunnel), access).map_err(|error| failed("cannot open the service", error))?;
    stop(&service)?;
    service.delete().map_err(|error| failed("cannot delete the service", error))
}

fn stop(service: &Service) -> Result<()> {
    let state = || {
        let status = service.query_status().map_err(|error| failed("cannot read the state of the service", error))?;
        Ok::<_, Error>(status.current_state)
    };
    let is_ending = || Ok::<_, Error>(matches!(state()?, ServiceState::Stopped | ServiceState::StopPending));
    // It may end by itself in between. One that is ending takes no controls.
    if !is_ending()?
        && let Err(error) = service.stop()
        && !is_ending()?
    {
        return Err(failed("cannot stop the service", error));
    }
    let begin = Instant::now();
    while state()? != ServiceState::Stopped {
        if begin.elapsed() > STOP_PATIENCE {
            return Err(Error::new(ErrorKind::TimedOut, "the service does not stop"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn no_manager(error: windows_service::Error) -> Error {
    failed("cannot open the service manager", error)
}

/// Converts an error of windows-service, of which the text of Windows is kept.
fn failed(context: &'static str, error: windows_service::Error) -> Error {
    match error {
        windows_service::Error::Winapi(error) => Error::io(context, error),
        other => Error::invalid(format!("{context}: {other}")),
    }
}
