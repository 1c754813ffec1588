//! Files that were damaged, moved or replaced.

use super::*;

/// A store with two logs: `a`, `b`, `c` in the first, `z` in the second.
fn two_logs() -> Store {
    let store = Store::new();
    for users in [&["a", "b", "c"][..], &["z"]] {
        let (mut log, _) = store.open();
        log.append(&users.iter().map(|user| put(user, user)).collect::<Vec<_>>()).expect("written");
    }
    store
}

/// The ends of the header and of each frame in a log's bytes.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let header = 53;
    let mut ends = vec![header];
    while let Some(length) = bytes.get(ends[ends.len() - 1]..).and_then(<[u8]>::first_chunk) {
        ends.push(ends[ends.len() - 1] + 4 + u32::from_be_bytes(*length) as usize);
    }
    assert_eq!(ends.last(), Some(&bytes.len()), "the header has another length");
    ends
}

fn with_z(texts: &[&str]) -> Vec<String> {
    texts.iter().chain(&["z"]).map(|text| (*text).to_owned()).collect()
}

#[test]
fn log_that_ends_at_any_byte_gives_the_frames_before_it() {
    let store = two_logs();
    let path = store.file("log-1");
    let bytes = fs::read(&path).expect("bytes");
    let ends = ends(&bytes);
    assert_eq!(ends.len(), 4);
    for length in 0..=bytes.len() {
        fs::write(&path, &bytes[..length]).expect("written");
        let frames = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        let loaded = store.loaded();
        assert_eq!(texts(&loaded), with_z(&["a", "b", "c"][..frames]), "{length} bytes");
        assert_eq!(loaded.files_rejected, u64::from(!ends.contains(&length)), "{length} bytes");
    }
}

#[test]
fn flipped_bit_ends_its_file_and_the_next_file_goes_on() {
    let store = two_logs();
    let path = store.file("log-1");
    let bytes = fs::read(&path).expect("bytes");
    let ends = ends(&bytes);
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        fs::write(&path, &changed).expect("written");
        let frames = ends.iter().filter(|end| **end <= index).count().saturating_sub(1);
        let loaded = store.loaded();
        assert_eq!(texts(&loaded), with_z(&["a", "b", "c"][..frames]), "byte {index}");
        assert_eq!(loaded.files_rejected, 1, "byte {index}");
    }
}

#[test]
fn frame_opens_only_in_its_place() {
    let store = two_logs();
    let [one, two] = ["log-1", "log-2"].map(|name| store.file(name));
    let [bytes, other] = [&one, &two].map(|path| fs::read(path).expect("bytes"));
    let ends = ends(&bytes);
    let frame = |index: usize| &bytes[ends[index]..ends[index + 1]];
    let header = &bytes[..ends[0]];
    for (frames, kept) in [
        ([frame(1), frame(0), frame(2)].concat(), &[][..]),
        ([frame(0), frame(2), frame(1)].concat(), &["a"]),
        ([frame(0), frame(0), frame(1)].concat(), &["a"]),
        ([frame(0), &other[ends[0]..]].concat(), &["a"]),
    ] {
        fs::write(&one, [header, &frames].concat()).expect("written");
        let loaded = store.loaded();
        assert_eq!((texts(&loaded), loaded.files_rejected), (with_z(kept), 1));
    }
}

#[test]
fn file_opens_only_under_its_name() {
    let store = two_logs();
    let [one, two] = ["log-1", "log-2"].map(|name| fs::read(store.file(name)).expect("bytes"));
    fs::write(store.file("log-1"), &two).expect("written");
    fs::write(store.file("log-2"), &one).expect("written");
    let loaded = store.loaded();
    assert_eq!((loaded.records.len(), loaded.files_rejected), (0, 2), "swapped");

    // With the number of its new name, it is that of no frame.
    let renumbered = [&one[..21], &two[21..]].concat();
    fs::write(store.file("log-1"), renumbered).expect("written");
    fs::write(store.file("log-2"), &two).expect("written");
    let loaded = store.loaded();
    assert_eq!((texts(&loaded), loaded.files_rejected), (with_z(&[]), 1), "renumbered");

    fs::write(store.file("log-1"), &one).expect("written");
    fs::write(store.file("snapshot"), &one).expect("written");
    let loaded = store.loaded();
    assert_eq!((texts(&loaded), loaded.files_rejected), (with_z(&["a", "b", "c"]), 1), "a log as a snapshot");
}

/// The logs between them may have held a sign-out.
#[test]
fn old_snapshot_beside_later_logs_is_not_used() {
    let store = Store::new();
    let (mut log, _) = store.open();
    write_snapshot(&mut log, &[Item::Record(record("a", "a1"))]);
    let old = fs::read(store.file("snapshot")).expect("bytes");
    log.append(&[forget_user("a")]).expect("written");
    write_snapshot(&mut log, &[Item::Record(record("b", "b1"))]);
    log.append(&[put("c", "c1")]).expect("written");
    assert_eq!(texts(&store.loaded()), ["b1", "c1"]);
    fs::write(store.file("snapshot"), &old).expect("written");
    let loaded = store.loaded();
    assert_eq!((texts(&loaded).as_slice(), loaded.files_rejected), (&["c1".to_owned()][..], 1));
}

#[test]
fn logs_before_a_missing_one_are_not_used() {
    let store = Store::new();
    for operations in [[put("a", "a1")], [forget_user("a")], [put("b", "b1")]] {
        store.open().0.append(&operations).expect("written");
    }
    assert_eq!(texts(&store.loaded()), ["b1"]);
    fs::remove_file(store.file("log-2")).expect("removed");
    assert_eq!(texts(&store.loaded()), ["b1"]);
    // A new log continues after the last.
    store.open().0.append(&[put("c", "c1")]).expect("written");
    assert!(store.file("log-4").exists());
    let loaded = store.loaded();
    assert_eq!((texts(&loaded).as_slice(), loaded.files_rejected), (&["b1".to_owned(), "c1".to_owned()][..], 1));
    // A name without a next number is no log.
    fs::write(store.file(&format!("log-{}", u64::MAX)), "").expect("written");
    assert_eq!(texts(&store.open().1), ["b1", "c1"]);
}

#[test]
fn snapshot_without_its_log_is_not_used() {
    let store = Store::new();
    let (mut log, _) = store.open();
    write_snapshot(&mut log, &[Item::Record(record("a", "a1"))]);
    log.append(&[forget_user("a")]).expect("written");
    fs::remove_file(store.file("log-2")).expect("removed");
    let loaded = store.loaded();
    assert_eq!((loaded.records.len(), loaded.files_rejected), (0, 1));
}

#[test]
fn logs_that_a_snapshot_left_behind_are_not_read() {
    let store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("a", "a1")]).expect("written");
    let old = fs::read(store.file("log-1")).expect("bytes");
    write_snapshot(&mut log, &[Item::Record(record("b", "b1"))]);
    fs::write(store.file("log-1"), &old).expect("written");
    let loaded = store.loaded();
    assert_eq!((texts(&loaded).as_slice(), loaded.files_rejected), (&["b1".to_owned()][..], 0));
}

#[test]
fn folder_in_the_place_of_a_file_is_counted() {
    let store = two_logs();
    fs::create_dir(store.file("snapshot")).expect("a folder");
    let folder = Folder::open(&store.path()).expect("a folder");
    let loaded = load(load::find(&folder, &store.keys).expect("a folder"), &store.identities, CLOCK);
    assert_eq!((texts(&loaded), loaded.files_rejected), (with_z(&["a", "b", "c"]), 1));
}
