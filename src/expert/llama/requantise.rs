//! The same model in other numbers, by llama.cpp's own quantiser: what a cheat would serve in its place. For
//! measurements only; nothing that a node serves comes from here.

#![allow(
    unsafe_code,
    reason = "one call of a C function that llama-cpp-2 does not wrap"
)]

use super::{LoadError, backend, lock};
use llama_cpp_sys_2::{
    LLAMA_FTYPE_ALL_F32, LLAMA_FTYPE_MOSTLY_IQ4_NL, LLAMA_FTYPE_MOSTLY_Q2_K,
    LLAMA_FTYPE_MOSTLY_Q3_K_M, LLAMA_FTYPE_MOSTLY_Q4_0, LLAMA_FTYPE_MOSTLY_Q4_K_M,
    LLAMA_FTYPE_MOSTLY_Q8_0, llama_ftype, llama_model_quantize,
    llama_model_quantize_default_params,
};
use std::ffi::CString;
use std::path::Path;

/// A file type of llama.cpp's. Tensors whose rows do not fit it get another type, as llama.cpp chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    Q2K,
    Q3KM,
    Q40,
    Iq4Nl,
    Q4KM,
    Q80,
    /// The same numbers, and nothing quantised: also what is multiplied with them.
    F32,
}

impl Quantisation {
    pub fn name(self) -> &'static str {
        match self {
            Quantisation::Q2K => "Q2_K",
            Quantisation::Q3KM => "Q3_K_M",
            Quantisation::Q40 => "Q4_0",
            Quantisation::Iq4Nl => "IQ4_NL",
            Quantisation::Q4KM => "Q4_K_M",
            Quantisation::Q80 => "Q8_0",
            Quantisation::F32 => "F32",
        }
    }

    fn ftype(self) -> llama_ftype {
        match self {
            Quantisation::Q2K => LLAMA_FTYPE_MOSTLY_Q2_K,
            Quantisation::Q3KM => LLAMA_FTYPE_MOSTLY_Q3_K_M,
            Quantisation::Q40 => LLAMA_FTYPE_MOSTLY_Q4_0,
            Quantisation::Iq4Nl => LLAMA_FTYPE_MOSTLY_IQ4_NL,
            Quantisation::Q4KM => LLAMA_FTYPE_MOSTLY_Q4_K_M,
            Quantisation::Q80 => LLAMA_FTYPE_MOSTLY_Q8_0,
            Quantisation::F32 => LLAMA_FTYPE_ALL_F32,
        }
    }
}

/// Writes the model of one file into another, which may not be there yet. `from` was checked as every model is.
pub fn requantise(
    from: &Path,
    to: &Path,
    kind: Quantisation,
    threads: u32,
) -> Result<(), LoadError> {
    let refused = |why: &str| LoadError::Model {
        path: from.to_owned(),
        why: why.into(),
    };
    let name = |path: &Path| {
        let name = path.to_str().and_then(|name| CString::new(name).ok());
        name.ok_or_else(|| refused("a path that llama.cpp cannot read"))
    };
    let (input, output) = (name(from)?, name(to)?);
    backend()?;
    let _one_at_a_time = lock();
    // SAFETY: both strings live until the call returns, and the parameters are llama.cpp's own with plain numbers
    // changed: every pointer in them stays null, which it takes for "none". It returns 0 or a failure, and catches
    // its own exceptions.
    let code = unsafe {
        let mut params = llama_model_quantize_default_params();
        params.ftype = kind.ftype();
        params.allow_requantize = true; // from the 4 bits that there are
        params.nthread = threads as i32;
        llama_model_quantize(input.as_ptr(), output.as_ptr(), &params)
    };
    match code {
        0 => Ok(()),
        _ => Err(refused("it cannot be quantised")),
    }
}
