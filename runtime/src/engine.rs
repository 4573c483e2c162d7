// SPDX-License-Identifier: Apache-2.0
//! The one wasmtime engine of a process, and the clock that interrupts guests.
//!
//! Everything that runs or loads a component comes here for the engine; the
//! compiler's child process builds its own from the same [`config`]. Invariant:
//! the pool holds as much as [`limits::SANDBOXES_MAX`] sandboxes can ever ask
//! for, and nobody gets a sandbox without a [`Slot`], so it cannot run dry.

use std::{
    hash::{Hash, Hasher},
    sync::{Mutex, OnceLock, PoisonError},
};

use fanfold_protocol::limits;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::memory;

/// What of tables, and at least of memory, stays mapped in a slot between two guests and is wiped by hand:
/// cheaper than giving pages back and faulting them in again. Where the kernel can tell which
/// pages were written (Linux 6.7), only those are wiped: with hello 12 µs a call instead of 30.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;
/// The same of memory at most: about what a guest takes that adds up the batches of a table, which
/// takes a fifth less of its thread for that.
const KEEP_RESIDENT_BYTES_MAX: usize = 4 << 20;
/// All slots together keep no more than one part in so many of the machine's memory.
const KEEP_RESIDENT_PART: u64 = 16;
/// Slots that stay bound to the last component that ran in them.
const WARM_SLOTS_MAX: u32 = 64;

/// The right to have a sandbox, or several, given back when dropped.
pub(crate) type Slot = SemaphorePermit<'static>;

/// The engine with what belongs to it.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    /// Tells artifacts of this engine from those of others.
    pub(crate) compatibility: [u8; 32],
    slots: Semaphore,
}

impl Shared {
    /// The process's engine, made when first asked for.
    pub(crate) fn get() -> wasmtime::Result<&'static Shared> {
        static SHARED: OnceLock<Shared> = OnceLock::new();
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = SHARED.get() {
            return Ok(shared);
        }
        let engine = Engine::new(config().allocation_strategy(pool()))?;
        tick(&engine)?;
        let compatibility = compatibility(&engine);
        Ok(SHARED.get_or_init(|| Shared {
            engine,
            compatibility,
            slots: Semaphore::new(limits::SANDBOXES_MAX),
        }))
    }

    /// Waits for room for so many more sandboxes, which are given at once: two
    /// tasks that each had one of two would wait for each other.
    pub(crate) async fn slots(&'static self, count: u32) -> Option<Slot> {
        match self.slots.try_acquire_many(count) {
            Ok(slots) => Some(slots),
            Err(_) => self.slots.acquire_many(count).await.ok(),
        }
    }
}

/// What wasm is taken and how it is compiled and run, without the allocator,
/// which does not matter to compiled code.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // Takes the component model's async part with it.
        .concurrency_support(false)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .async_stack_size(limits::ASYNC_STACK_BYTES)
        .memory_init_cow(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .wasm_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_component_model(true)
        .wasm_multi_memory(true)
        .wasm_threads(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .wasm_memory64(false)
        .wasm_stack_switching(false);
    config
}

fn pool() -> InstanceAllocationStrategy {
    let sandboxes = u32::try_from(limits::SANDBOXES_MAX).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(sandboxes)
        .total_core_instances(sandboxes * limits::CORE_INSTANCES_MAX)
        .total_memories(sandboxes * limits::MEMORIES_MAX)
        .total_tables(sandboxes * limits::TABLES_MAX)
        .total_stacks(sandboxes)
        .max_core_instances_per_component(limits::CORE_INSTANCES_MAX)
        .max_memories_per_component(limits::MEMORIES_MAX)
        .max_tables_per_component(limits::TABLES_MAX)
        .max_memories_per_module(limits::MEMORIES_MAX)
        .max_tables_per_module(limits::TABLES_MAX)
        .max_memory_size(usize::try_from(limits::MEMORY_BYTES_MAX).unwrap_or(usize::MAX))
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(keep_resident_bytes(memory::machine_bytes()))
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(WARM_SLOTS_MAX);
    InstanceAllocationStrategy::Pooling(pool)
}

/// The memory that a slot keeps on a machine with so much.
fn keep_resident_bytes(machine_bytes: u64) -> usize {
    let share = machine_bytes / KEEP_RESIDENT_PART / limits::SANDBOXES_MAX as u64;
    usize::try_from(share)
        .map_or(KEEP_RESIDENT_BYTES_MAX, |share| share.clamp(KEEP_RESIDENT_BYTES, KEEP_RESIDENT_BYTES_MAX))
}

/// Advances the epoch from a plain thread: a busy async runtime must not be
/// able to hold it up. Ends with the engine.
fn tick(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    let ticking = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(limits::EPOCH_TICK);
        }
    };
    std::thread::Builder::new().name("fanfold-epoch".to_owned()).spawn(ticking)?;
    Ok(())
}

/// Digest of all that decides whether compiled code fits an engine: wasmtime's
/// version, target, compiler flags and features.
fn compatibility(engine: &Engine) -> [u8; 32] {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.0.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_a_part_of_the_machine_s_memory_at_most() {
        assert_eq!(keep_resident_bytes(1 << 30), KEEP_RESIDENT_BYTES);
        assert_eq!(keep_resident_bytes(8 << 30), 2 << 20);
        assert_eq!(keep_resident_bytes(u64::MAX), KEEP_RESIDENT_BYTES_MAX);
    }
}
