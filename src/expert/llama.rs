//! llama.cpp behind the `Expert` trait.
