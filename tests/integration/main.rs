//! Whole-system tests in one binary.

mod host;
mod native;
