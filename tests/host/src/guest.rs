//! The module's memory, as a hostcall sees it.

use wasmi::{Caller, Memory, TypedFunc};

use crate::abi::Status;
use crate::state::State;

/// Access to the memory of the module that made a hostcall.
pub(crate) struct Guest<'a, 'b> {
    caller: &'a mut Caller<'b, State>,
    memory: Memory,
    trap: Option<wasmi::Error>,
}

impl<'a, 'b> Guest<'a, 'b> {
    pub(crate) fn new(caller: &'a mut Caller<'b, State>) -> Self {
        let memory = caller
            .get_export("memory")
            .and_then(wasmi::Extern::into_memory)
            .expect("the module exports its memory");
        Self { caller, memory, trap: None }
    }

    pub(crate) fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    pub(crate) fn read(&mut self, at: u32, size: u32) -> Result<Vec<u8>, Status> {
        let bytes = self.peek(at, size)?;
        if let Some(call) = self.state().recording() {
            call.read.push(bytes.clone());
        }
        Ok(bytes)
    }

    fn peek(&self, at: u32, size: u32) -> Result<Vec<u8>, Status> {
        let start = usize::try_from(at).map_err(|_| Status::InvalidMemoryAccess)?;
        let size = usize::try_from(size).map_err(|_| Status::InvalidMemoryAccess)?;
        let end = start.checked_add(size).ok_or(Status::InvalidMemoryAccess)?;
        let bytes = self.memory.data(&*self.caller).get(start..end);
        bytes.map(<[u8]>::to_vec).ok_or(Status::InvalidMemoryAccess)
    }

    pub(crate) fn read_u32(&self, at: u32) -> Result<u32, Status> {
        let bytes = self.peek(at, 4)?;
        let bytes = bytes.try_into().map_err(|_| Status::InvalidMemoryAccess)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Status> {
        let at = usize::try_from(at).map_err(|_| Status::InvalidMemoryAccess)?;
        let write = self.memory.write(&mut *self.caller, at, bytes);
        write.map_err(|_| Status::InvalidMemoryAccess)
    }

    pub(crate) fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Status> {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Status> {
        self.write(at, &value.to_le_bytes())
    }

    /// Hands over bytes in memory that the module allocates. As in Envoy, nothing is allocated
    /// for nothing: no bytes are a null pointer and the size zero.
    pub(crate) fn give(&mut self, bytes: &[u8], at: u32, size_at: u32) -> Result<(), Status> {
        let size = u32::try_from(bytes.len()).map_err(|_| Status::InternalFailure)?;
        if let Some(call) = self.state().recording() {
            call.given.push(bytes.len());
        }
        let mut start = 0;
        if size > 0 {
            start = self.allocate(size)?;
            self.write(start, bytes)?;
        }
        self.write_u32(at, start)?;
        self.write_u32(size_at, size)
    }

    fn allocate(&mut self, size: u32) -> Result<u32, Status> {
        let function = ["proxy_on_memory_allocate", "malloc"]
            .into_iter()
            .find_map(|name| self.caller.get_export(name)?.into_func())
            .expect("the module exports an allocator");
        let function: TypedFunc<u32, u32> =
            function.typed(&*self.caller).expect("the allocator takes a size, gives a pointer");
        match function.call(&mut *self.caller, size) {
            Ok(0) => Err(Status::InvalidMemoryAccess),
            Ok(start) => Ok(start),
            Err(trap) => {
                self.trap = Some(trap);
                Err(Status::InvalidMemoryAccess)
            }
        }
    }

    /// Whether the module trapped while it allocated: then it is lost as a whole.
    pub(crate) fn into_trap(self) -> Option<wasmi::Error> {
        self.trap
    }
}
