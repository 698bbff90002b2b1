//! Kept launches as a graph of the driver's.

use super::cuda_memory::Owner;
use super::cuda_modules::{Function, allow_shared};
use super::launch::{ArgBlock, Edge};
use super::tape::Step;
use cudarc::driver::{result, sys};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// A graph that the driver can run; destroyed when dropped.
pub(super) struct Exec {
    owner: Arc<Owner>,
    /// Locked while it is launched: the driver takes a graph from one thread at a time.
    exec: Mutex<Handle>,
}

struct Handle(sys::CUgraphExec);

// SAFETY: a handle of the driver, which takes it from any thread whose current context is its own.
unsafe impl Send for Handle {}

impl Exec {
    /// A graph of these launches, one after another, `functions` being their kernels.
    pub(super) fn new(owner: &Arc<Owner>, steps: &[Step], functions: &[Function]) -> Result<Exec, result::DriverError> {
        owner.enter()?;
        let mut graph = ptr::null_mut();
        // SAFETY: writes the handle.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result()?;
        let mut last = None;
        let nodes = steps.iter().zip(functions).try_for_each(|(step, function)| {
            // SAFETY: the graph was just made, `last` is its node.
            last = Some(unsafe { node(graph, last, step, *function) }?);
            Ok(())
        });
        // SAFETY: the graph is whole; the driver copies what it needs of it, so it is destroyed in any case.
        unsafe {
            let exec = nodes.and_then(|()| result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)));
            let destroyed = result::graph::destroy(graph);
            let exec = Exec { owner: owner.clone(), exec: Mutex::new(Handle(exec?)) };
            destroyed.map(|()| exec)
        }
    }

    /// Runs it behind everything asked for before.
    pub(super) fn launch(&self) -> Result<(), result::DriverError> {
        self.owner.enter()?;
        let exec = self.exec.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: its kernels' modules are never unloaded; the memory in its arguments is there, which the caller has
        // looked at, and freed memory is reused on the same stream only.
        unsafe { result::graph::launch(exec.0, self.owner.stream()) }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let exec = self.exec.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.owner.enter().is_ok() {
            // SAFETY: made by `new`, destroyed once; the driver frees a graph that still runs when it is done. What it
            // answers to that nobody could use.
            let _ = unsafe { result::graph::exec_destroy(exec.0) };
        }
    }
}

/// Adds a launch behind another.
///
/// # Safety
/// The context is current, the graph valid, `last` a node of it, the function of a loaded module.
unsafe fn node(
    graph: sys::CUgraph,
    last: Option<sys::CUgraphNode>,
    step: &Step,
    function: Function,
) -> Result<sys::CUgraphNode, result::DriverError> {
    let (mut block, mut node) = (ArgBlock::again(&step.args), ptr::null_mut());
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (step.grid, step.block);
    let params = sys::CUDA_KERNEL_NODE_PARAMS {
        func: function.0,
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: block_x,
        blockDimY: block_y,
        blockDimZ: block_z,
        sharedMemBytes: step.shared_bytes,
        kernelParams: block.pointers(),
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        // The current one.
        ctx: ptr::null_mut(),
    };
    // SAFETY: the caller's promise; the argument block has a value for each parameter, which the driver copies before it
    // returns.
    unsafe {
        allow_shared(function, step.shared_bytes)?;
        sys::cuGraphAddKernelNode_v2(&mut node, graph, ptr::null(), 0, &params).result()?;
        if let Some(last) = last {
            sys::cuGraphAddDependencies_v2(graph, &last, &node, &edge(step.edge), 1).result()?;
        }
    }
    Ok(node)
}

/// A full edge: all zeros. A programmatic one leaves the launch before when its blocks have let dependents begin.
fn edge(edge: Edge) -> sys::CUgraphEdgeData {
    let (port, kind) = match edge {
        Edge::Full => {
            (sys::CU_GRAPH_KERNEL_NODE_PORT_DEFAULT, sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_DEFAULT)
        }
        Edge::Programmatic => {
            let kind = sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
            (sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, kind)
        }
    };
    sys::CUgraphEdgeData { from_port: port as u8, to_port: 0, type_: kind as u8, reserved: [0; 5] }
}
