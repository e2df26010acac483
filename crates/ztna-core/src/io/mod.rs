//! 
pub mod folder;
pub mod pki_folder;
