//! Whether what was built is what the sources say.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What is made of this recipe and of these sources, as a word.
pub(super) fn of(recipe: &str, sources: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    for file in files(sources).with_context(|| format!("cannot read {}", sources.display()))? {
        file.strip_prefix(sources).unwrap_or(&file).hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Whether the folder holds what this stamp stands for.
pub(super) fn is_on(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join("stamp")).is_ok_and(|text| text == stamp)
}

/// Says that it does.
pub(super) fn put(folder: &Path, stamp: &str) -> Result<()> {
    Ok(fs::write(folder.join("stamp"), stamp)?)
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_the_recipe_and_the_sources() {
        let folder = std::env::temp_dir().join(format!("lastcall-stamp-{}", std::process::id()));
        fs::create_dir_all(folder.join("src")).expect("a folder");
        fs::write(folder.join("src/a"), "1").expect("a file");
        let first = of("recipe", &folder.join("src")).expect("a stamp");
        assert!(!is_on(&folder, &first));
        put(&folder, &first).expect("a place for the stamp");
        assert!(is_on(&folder, &first));
        assert_ne!(of("another", &folder.join("src")).expect("a stamp"), first);
        fs::write(folder.join("src/a"), "2").expect("a file");
        assert_ne!(of("recipe", &folder.join("src")).expect("a stamp"), first);
        fs::remove_dir_all(&folder).expect("the folder is ours");
    }
}
