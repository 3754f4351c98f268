//! Whole-system tests in one binary.

mod host;
#[cfg(test)]
mod native;
