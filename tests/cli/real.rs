//! With a real model, where there is one.
