//! `store-key`: the key file of a store.

use std::fs;
use std::os::unix::fs::MetadataExt;

use courier_token_broker::store::StoreKeys;

use crate::refusals::is_refused;
use crate::support::child::Program;

#[test]
fn new_key_file_is_secret_and_has_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let [one, two] = ["one", "two \"quoted\""].map(|name| folder.path().join(name));
    for path in [&one, &two] {
        let made = Program::new(["store-key".as_ref(), path.as_os_str()]).run();
        assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
        assert_eq!(fs::metadata(path).expect("a file").mode() & 0o7777, 0o600);
        StoreKeys::read(path).expect("a key");
        let entry = made.stdout.iter().skip_while(|line| *line != "[store]").cloned().collect::<Vec<_>>().join("\n");
        let entry: toml::Table = entry.parse().expect("TOML");
        assert_eq!(entry["store"]["key_file"].as_str(), path.to_str());
        let key = fs::read_to_string(path).expect("text");
        assert!(!made.stdout.join("\n").contains(key.trim()), "{made:?}");
    }
    assert_ne!(fs::read(&one).expect("a key"), fs::read(&two).expect("a key"));
}

#[test]
fn existing_file_and_missing_folder_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    fs::write(&path, "kept").expect("written");
    is_refused("existing", &Program::new(["store-key".as_ref(), path.as_os_str()]).run(), &["exists already"]);
    assert_eq!(fs::read_to_string(&path).expect("text"), "kept");
    let missing = folder.path().join("missing/key");
    is_refused("missing", &Program::new(["store-key".as_ref(), missing.as_os_str()]).run(), &["can't be made"]);
}
