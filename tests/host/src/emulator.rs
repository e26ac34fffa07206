//! One worker's VM: callbacks in, state out.

use std::collections::BTreeMap;
use std::fmt;

use wasmi::{Caller, ExternType, Instance, Linker, Store, StoreLimitsBuilder, Val};

use crate::abi::LogLevel;
use crate::guest::Guest;
use crate::module::Module;
use crate::state::{Answer, Exchange, ExchangeId, Hostcall, Phase, Root, State, Stream};
use crate::{env, wasi};

/// What a callback may spend: a module that runs in circles is stopped.
const FUEL: u64 = 2_000_000_000;

/// A worker's VM with the module in it.
#[derive(Debug)]
pub struct HostEmulator {
    store: Store<State>,
    instance: Instance,
    contexts: u32,
    fuel: u64,
    dead: Option<Trap>,
}

/// The module trapped: Envoy would answer 503 from here on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trap {
    /// The callback in which it happened.
    pub callback: String,
    /// What the engine says, and what the module said last.
    pub message: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.callback, self.message)
    }
}

impl std::error::Error for Trap {}

/// What a callback wants done with the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Go on.
    Continue,
    /// Wait until the module says so.
    Pause,
}

/// What the module has spent so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Units of the engine, about one an instruction.
    pub fuel: u64,
    /// How often each hostcall was made.
    pub hostcalls: BTreeMap<String, u64>,
}

impl Usage {
    /// What was spent since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let hostcalls = self.hostcalls.iter().filter_map(|(name, count)| {
            let earlier = before.hostcalls.get(name).copied().unwrap_or(0);
            let more = count.saturating_sub(earlier);
            (more > 0).then(|| (name.clone(), more))
        });
        Self { fuel: self.fuel.saturating_sub(before.fuel), hostcalls: hostcalls.collect() }
    }

    /// How many hostcalls were made.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hostcalls.values().sum()
    }
}

impl HostEmulator {
    /// A fresh VM.
    ///
    /// # Errors
    ///
    /// If the module traps in its initialization.
    pub fn new(module: &Module) -> Result<Self, Trap> {
        Self::with_state(module, State::default())
    }

    /// A fresh VM in a host that is already in a state.
    ///
    /// # Panics
    ///
    /// If the module imports what the host does not have.
    ///
    /// # Errors
    ///
    /// If the module traps in its initialization.
    pub fn with_state(module: &Module, state: State) -> Result<Self, Trap> {
        let mut store = Store::new(module.module.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_fuel(FUEL).expect("the engine meters fuel");
        let instance = link(module)
            .instantiate_and_start(&mut store, &module.module)
            .unwrap_or_else(|error| panic!("the module cannot be linked: {error}"));
        let mut host = Self { store, instance, contexts: 0, fuel: 0, dead: None };
        host.call("_initialize", &[])?;
        Ok(host)
    }

    /// A VM with one configured root context, as Envoy makes it; gives the context's id.
    ///
    /// # Errors
    ///
    /// If the module traps.
    ///
    /// # Panics
    ///
    /// If the module refuses to start or refuses the configuration.
    pub fn boot(module: &Module, configuration: &str) -> Result<(Self, u32), Trap> {
        let mut host = Self::new(module)?;
        let root = host.create_root()?;
        assert!(host.vm_start(root)?, "the VM did not start");
        let accepted = host.configure(root, configuration)?;
        assert!(accepted, "configuration refused: {:?}", host.state().logged(LogLevel::Error));
        Ok((host, root))
    }

    /// The state of the host.
    #[must_use]
    pub fn state(&self) -> &State {
        self.store.data()
    }

    /// The state of the host, to be changed by the test.
    pub fn state_mut(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// From now on the hostcall does nothing and answers `status`.
    pub fn fault(&mut self, hostcall: &str, status: u32) {
        self.state_mut().faults.insert(hostcall.to_owned(), status);
    }

    /// What the module has spent so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { fuel: self.fuel, hostcalls: self.state().hostcalls.clone() }
    }

    /// How much memory the module has taken, in bytes. It never gives any back.
    ///
    /// # Panics
    ///
    /// If the module exports no memory.
    #[must_use]
    pub fn memory(&self) -> usize {
        let memory = self.instance.get_memory(&self.store, "memory").expect("a memory");
        memory.data_size(&self.store)
    }

    /// From now on the module may take so many bytes of memory more than it has.
    pub fn limit_memory(&mut self, more: usize) {
        let most = self.memory().saturating_add(more);
        self.state_mut().limits = StoreLimitsBuilder::new().memory_size(most).build();
    }

    /// Lets time pass, without a tick.
    pub fn advance(&mut self, by: std::time::Duration) {
        let by = u64::try_from(by.as_nanos()).expect("no test runs for 500 years");
        let state = self.state_mut();
        state.clock = state.clock.saturating_add(by);
    }

    /// Makes a root context.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn create_root(&mut self) -> Result<u32, Trap> {
        let id = self.next_context();
        self.state_mut().roots.insert(id, Root::default());
        self.enter(id, Phase::Root, "proxy_on_context_create", &[id, 0])?;
        Ok(id)
    }

    /// Starts the VM.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn vm_start(&mut self, root: u32) -> Result<bool, Trap> {
        Ok(self.enter(root, Phase::Root, "proxy_on_vm_start", &[root, 0])? != Some(0))
    }

    /// Configures the plugin.
    ///
    /// # Errors
    ///
    /// If the module traps.
    ///
    /// # Panics
    ///
    /// If there is no such root context.
    pub fn configure(&mut self, root: u32, configuration: impl AsRef<[u8]>) -> Result<bool, Trap> {
        let configuration = configuration.as_ref().to_vec();
        let size = u32::try_from(configuration.len()).expect("a configuration is small");
        let roots = &mut self.state_mut().roots;
        roots.get_mut(&root).expect("a root context").configuration = configuration;
        let accepted = self.enter(root, Phase::Root, "proxy_on_configure", &[root, size])?;
        let roots = &mut self.state_mut().roots;
        roots.get_mut(&root).expect("a root context").configuration.clear();
        Ok(accepted != Some(0))
    }

    /// Lets a tick come.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn tick(&mut self, root: u32) -> Result<(), Trap> {
        self.enter(root, Phase::Root, "proxy_on_tick", &[root]).map(drop)
    }

    /// Takes in a request; no context sees it yet.
    pub fn exchange(&mut self, exchange: Exchange) -> ExchangeId {
        let exchanges = &mut self.state_mut().exchanges;
        exchanges.push(exchange);
        ExchangeId(exchanges.len().saturating_sub(1))
    }

    /// Makes an HTTP context for a request.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn create_stream(&mut self, root: u32, exchange: ExchangeId) -> Result<u32, Trap> {
        let id = self.next_context();
        self.state_mut().streams.insert(id, Stream { root, exchange });
        self.enter(id, Phase::Stream, "proxy_on_context_create", &[id, root])?;
        Ok(id)
    }

    /// Request headers came.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn request_headers(&mut self, stream: u32) -> Result<Action, Trap> {
        self.headers(stream, "proxy_on_request_headers", true)
    }

    /// Response headers came.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn response_headers(&mut self, stream: u32) -> Result<Action, Trap> {
        let state = self.state();
        let exchange =
            state.streams.get(&stream).and_then(|stream| state.exchanges.get(stream.exchange.0));
        let is_last = exchange.is_none_or(|exchange| !exchange.has_body);
        self.headers(stream, "proxy_on_response_headers", is_last)
    }

    /// A body's data or trailers came: callbacks that the module exports whether it needs them
    /// or not.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn bodies_and_trailers(&mut self, stream: u32) -> Result<(), Trap> {
        for body in ["proxy_on_request_body", "proxy_on_response_body"] {
            self.enter(stream, Phase::Stream, body, &[stream, 10, 0])?;
        }
        for trailers in ["proxy_on_request_trailers", "proxy_on_response_trailers"] {
            self.enter(stream, Phase::Stream, trailers, &[stream, 1])?;
        }
        Ok(())
    }

    /// The exchange is over and logged.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn log(&mut self, stream: u32) -> Result<(), Trap> {
        self.enter(stream, Phase::Log, "proxy_on_log", &[stream]).map(drop)
    }

    /// A context is about to go: its own answer.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn done(&mut self, context: u32) -> Result<bool, Trap> {
        let phase = self.last_phase(context);
        Ok(self.enter(context, phase, "proxy_on_done", &[context])? != Some(0))
    }

    /// A context goes.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn delete(&mut self, context: u32) -> Result<(), Trap> {
        let phase = self.last_phase(context);
        self.enter(context, phase, "proxy_on_delete", &[context])?;
        self.state_mut().streams.remove(&context);
        self.state_mut().roots.remove(&context);
        Ok(())
    }

    /// The end of a stream in Envoy's order: log, done, delete.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn finish(&mut self, stream: u32) -> Result<(), Trap> {
        self.log(stream)?;
        self.done(stream)?;
        self.delete(stream)
    }

    /// A request from its first header to its end, with the response that it brings.
    ///
    /// # Errors
    ///
    /// If the module traps.
    pub fn serve(&mut self, root: u32, exchange: Exchange) -> Result<ExchangeId, Trap> {
        let id = self.exchange(exchange);
        let stream = self.create_stream(root, id)?;
        self.request_headers(stream)?;
        self.response_headers(stream)?;
        self.finish(stream)?;
        Ok(id)
    }

    /// Answers a callout, if the context that made it is still there: Envoy cancels the others.
    ///
    /// # Errors
    ///
    /// If the module traps.
    ///
    /// # Panics
    ///
    /// If there is no such callout, or it has its answer.
    pub fn answer(&mut self, token: u32, answer: Answer) -> Result<(), Trap> {
        let state = self.state_mut();
        let callout = state.callouts.iter_mut().find(|callout| callout.token == token);
        let callout = callout.expect("a callout of that token");
        assert!(!callout.answered, "callout {token} has its answer");
        callout.answered = true;
        let context = callout.context;
        if !state.roots.contains_key(&context) && !state.streams.contains_key(&context) {
            return Ok(());
        }
        let size = |len: usize| u32::try_from(len).expect("an answer is small");
        let count = |pairs: &Option<crate::Pairs>| size(pairs.as_ref().map_or(0, Vec::len));
        let body = if answer.headers.is_some() { size(answer.body.len()) } else { 0 };
        let args = [context, token, count(&answer.headers), body, count(&answer.trailers)];
        self.state_mut().answer = Some(answer);
        let result = self.enter(context, Phase::Root, "proxy_on_http_call_response", &args);
        self.state_mut().answer = None;
        result.map(drop)
    }

    fn headers(&mut self, stream: u32, callback: &str, is_last: bool) -> Result<Action, Trap> {
        let args = [stream, 0, u32::from(is_last)];
        let action = self.enter(stream, Phase::Stream, callback, &args)?;
        Ok(if action == Some(1) { Action::Pause } else { Action::Continue })
    }

    fn last_phase(&self, context: u32) -> Phase {
        if self.state().roots.contains_key(&context) { Phase::Root } else { Phase::Over }
    }

    fn next_context(&mut self) -> u32 {
        self.contexts = self.contexts.saturating_add(1);
        self.contexts
    }

    fn enter(
        &mut self,
        context: u32,
        phase: Phase,
        callback: &str,
        args: &[u32],
    ) -> Result<Option<u32>, Trap> {
        let state = self.state_mut();
        state.current = context;
        state.effective = context;
        state.phase = phase;
        callback.clone_into(&mut state.callback);
        let result = self.call(callback, args);
        let state = self.state_mut();
        state.current = 0;
        state.effective = 0;
        state.phase = Phase::Root;
        result
    }

    /// Calls an export; one that the module lacks is passed over, as in Envoy.
    fn call(&mut self, callback: &str, args: &[u32]) -> Result<Option<u32>, Trap> {
        if let Some(trap) = &self.dead {
            return Err(trap.clone());
        }
        let Some(function) = self.instance.get_func(&self.store, callback) else {
            return Ok(None);
        };
        let args: Vec<Val> = args.iter().map(|arg| Val::I32(arg.cast_signed())).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        self.store.set_fuel(FUEL).expect("the engine meters fuel");
        let outcome = function.call(&mut self.store, &args, &mut results);
        let left = self.store.get_fuel().expect("the engine meters fuel");
        self.fuel = self.fuel.saturating_add(FUEL.saturating_sub(left));
        if let Err(error) = outcome {
            // A panic's message goes to the log or to the standard error stream.
            let logged = self.state().logged(LogLevel::Critical);
            let panic = logged.last().copied().unwrap_or_default();
            let output = String::from_utf8_lossy(&self.state().output);
            let message = format!("{error}; {panic}{output}");
            let trap = Trap { callback: callback.to_owned(), message };
            self.dead = Some(trap.clone());
            return Err(trap);
        }
        Ok(results.first().and_then(Val::i32).map(i32::cast_unsigned))
    }
}

fn link(module: &Module) -> Linker<State> {
    let mut linker = Linker::new(module.module.engine());
    for import in module.module.imports() {
        let (space, name) = (import.module().to_owned(), import.name().to_owned());
        let known = match space.as_str() {
            "env" => env::NAMES.contains(&name.as_str()),
            "wasi_snapshot_preview1" => wasi::NAMES.contains(&name.as_str()),
            _ => false,
        };
        let ExternType::Func(ty) = import.ty() else {
            panic!("the module imports {space}.{name}, which is not a function");
        };
        assert!(known, "the module imports {space}.{name}, which the host does not have");
        let call = move |caller: Caller<'_, State>, args: &[Val], results: &mut [Val]| {
            dispatch(caller, &space, &name, args, results)
        };
        linker
            .func_new(import.module(), import.name(), ty.clone(), call)
            .expect("an import is listed once");
    }
    linker
}

fn dispatch(
    mut caller: Caller<'_, State>,
    space: &str,
    name: &str,
    args: &[Val],
    results: &mut [Val],
) -> Result<(), wasmi::Error> {
    let args: Vec<u64> = args
        .iter()
        .map(|arg| match arg {
            Val::I32(narrow) => u64::from(narrow.cast_unsigned()),
            Val::I64(wide) => wide.cast_unsigned(),
            other => panic!("{name} takes no {other:?}"),
        })
        .collect();
    let count = caller.data_mut().hostcalls.entry(name.to_owned()).or_insert(0);
    *count = count.saturating_add(1);
    let state = caller.data_mut();
    if let Some(calls) = &mut state.recorded {
        let (callback, name) = (state.callback.clone(), name.to_owned());
        calls.push(Hostcall { callback, name, ..Hostcall::default() });
    }
    if name == "proc_exit" {
        return Err(wasmi::Error::new("the module called proc_exit"));
    }
    let answer = match caller.data().faults.get(name) {
        Some(status) => *status,
        None => {
            let mut guest = Guest::new(&mut caller);
            let answer = if space == "env" {
                env::call(&mut guest, name, &args).map_or_else(|status| status as u32, |()| 0)
            } else {
                wasi::call(&mut guest, name, &args).map_or_else(|errno| errno.0, |()| 0)
            };
            if let Some(trap) = guest.into_trap() {
                return Err(trap);
            }
            answer
        }
    };
    if let Some(call) = caller.data_mut().recording() {
        call.answer = answer;
    }
    if let Some(result) = results.first_mut() {
        *result = Val::I32(answer.cast_signed());
    }
    Ok(())
}
