//! A LoRA in memory, on the weights of its base.
//!
//! The one place with unsafe code of ours around llama.cpp. llama-cpp-2 wants the model exclusively
//! to load an adapter, which would mean dropping every context of every expert on it, and never frees
//! one. llama.cpp itself asks for neither: an adapter is put into a set beside the weights
//! (`llama_model::loras`), which only the making and planning of contexts reads.

#![allow(
    unsafe_code,
    reason = "loading an adapter beside living contexts, and freeing it"
)]

use super::{AdapterFile, LoadError, lock};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_sys_2::{llama_adapter_lora, llama_adapter_lora_free};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::PathBuf;

/// Must outlive the contexts that use it, on the thread that owns them.
pub(super) struct Adapter<'model> {
    path: PathBuf,
    lora: LlamaLoraAdapter,
    model: PhantomData<&'model LlamaModel>,
}

const _: () = assert!(size_of::<LlamaLoraAdapter>() == size_of::<*mut llama_adapter_lora>());

impl<'model> Adapter<'model> {
    /// Call it on the thread that owns every context of this model.
    pub(super) fn load(
        model: &'model LlamaModel,
        file: &AdapterFile,
    ) -> Result<Adapter<'model>, LoadError> {
        let _one_at_a_time = lock();
        // SAFETY: a `LlamaModel` is one pointer to a C++ object (`repr(transparent)`, version pinned),
        // which no reference of Rust's covers. The copy is never dropped, so the object is freed once.
        // `lora_adapter_init` writes `model.loras` and nothing else that outlives the call. That set is
        // read when a context is made or plans its graph, and all contexts of this model live on this
        // thread. Other threads hold the model as tokenisers, which read its vocabulary alone.
        let mut model = ManuallyDrop::new(unsafe { std::ptr::read(model) });
        let lora = model
            .lora_adapter_init(&file.path)
            .map_err(|error| LoadError::Adapter {
                path: file.path.clone(),
                why: error.to_string(),
            })?;
        Ok(Adapter {
            path: file.path.clone(),
            lora,
            model: PhantomData,
        })
    }

    /// From now on the context computes with it.
    pub(super) fn put_on(&mut self, context: &mut LlamaContext<'model>) -> Result<(), LoadError> {
        let set = context.lora_adapter_set(&mut self.lora, 1.0);
        set.map_err(|error| LoadError::Adapter {
            path: self.path.clone(),
            why: error.to_string(),
        })
    }

    /// The context computes without one, and may outlive this one. False: it does not let go.
    pub(super) fn take_off(&mut self, context: &mut LlamaContext<'model>) -> bool {
        context.lora_adapter_remove(&mut self.lora).is_ok()
    }
}

impl Drop for Adapter<'_> {
    fn drop(&mut self) {
        // SAFETY: a `LlamaLoraAdapter` is one pointer (`repr(transparent)`, version pinned, size checked
        // above), and frees nothing itself. The model is alive (`'model`), and takes the adapter out of
        // its set on this thread, as above. A seat takes it off its context or drops the context before,
        // so nobody computes with it any more.
        unsafe {
            let lora: *mut llama_adapter_lora = std::mem::transmute_copy(&self.lora);
            llama_adapter_lora_free(lora);
        }
    }
}
