//! Replays the corpora of the fuzz targets on a stable compiler: every file as it is, cut at every length, with every bit
//! flipped. cargo fuzz itself needs nightly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ztna_core::wire::fuzz::TARGETS;

#[test]
fn every_decoder_survives_its_corpus_truncated_and_mutated() {
    for (name, entry) in TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 3, "{name}: {} corpus files", files.len());
        for file in files {
            let data = fs::read(&file).unwrap();
            entry(&data);
            (0..data.len()).for_each(|cut| entry(&data[..cut]));
            let mut mutated = data.clone();
            for bit in 0..data.len() * 8 {
                mutated[bit / 8] ^= 1 << (bit % 8);
                entry(&mutated);
                mutated[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn every_corpus_and_every_fuzz_target_belongs_to_an_entry_function() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(fuzz_dir().join(folder))
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(listed("corpus"), names);
    assert_eq!(listed("fuzz_targets"), names);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for name in names {
        let target = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&target), "fuzz/Cargo.toml has no [[bin]] for {name}");
        let source = fs::read_to_string(fuzz_dir().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("wire::fuzz::{name}(data)")), "fuzz_targets/{name}.rs fuzzes something else");
    }
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(fuzz_dir().join("corpus").join(target)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
