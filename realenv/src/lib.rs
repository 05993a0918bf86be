//! realenv
