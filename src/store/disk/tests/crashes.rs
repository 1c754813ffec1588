//! Random operations and a crash at a random byte: what is loaded is what a model has.

use proptest::prelude::*;

use super::*;

/// Keys that share users and workspaces.
const TOKEN_KEYS: [(&str, &str); 4] = [("eu", "a"), ("eu", "b"), ("eu", "a b"), ("us", "a")];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u32),
    ForgetKey(usize),
    ForgetUser(&'static str, &'static str),
    ForgetWorkspace(&'static str),
    Roll,
    Snapshot,
    /// A snapshot during which the process is killed, after so many items.
    TornSnapshot(usize),
    Restart,
}

type Model = BTreeMap<usize, u32>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..4usize, any::<u32>()).prop_map(|(key, token)| Step::Put(key, token)),
        2 => (0..4usize).prop_map(Step::ForgetKey),
        2 => prop_oneof![Just(("eu", "a")), Just(("eu", "b")), Just(("us", "a"))].prop_map(|(w, u)| Step::ForgetUser(w, u)),
        1 => prop_oneof![Just("eu"), Just("us")].prop_map(Step::ForgetWorkspace),
        1 => Just(Step::Roll),
        1 => Just(Step::Snapshot),
        1 => (0..4usize).prop_map(Step::TornSnapshot),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..20)
}

fn item(key: usize, token: u32) -> Item {
    let (workspace, users) = TOKEN_KEYS[key];
    Item::Record(Record { key: super::key(workspace, users), ..record("x", &token.to_string()) })
}

/// Applies a step to the model, and returns its operation if it has one.
fn apply(step: &Step, model: &mut Model) -> Option<Operation> {
    Some(match step {
        Step::Put(key, token) => {
            model.insert(*key, *token);
            Operation::Keep(item(*key, *token))
        }
        Step::ForgetKey(key) => {
            model.remove(key);
            Operation::ForgetKey(super::key(TOKEN_KEYS[*key].0, TOKEN_KEYS[*key].1))
        }
        Step::ForgetUser(workspace, user) => {
            let is_of = |(of, users): (&str, &str)| of == *workspace && users.split(' ').any(|one| one == *user);
            model.retain(|key, _| !is_of(TOKEN_KEYS[*key]));
            Operation::ForgetUser { workspace: (*workspace).into(), user: (*user).into() }
        }
        Step::ForgetWorkspace(workspace) => {
            model.retain(|key, _| TOKEN_KEYS[*key].0 != *workspace);
            Operation::ForgetWorkspace((*workspace).into())
        }
        _ => return None,
    })
}

/// Runs a step on the store.
fn run(store: &Store, log: &mut Option<Log>, step: &Step, model: &mut Model) {
    if let Some(operation) = apply(step, model) {
        return log.as_mut().expect("a log").append(&[operation]).expect("written");
    }
    let items: Vec<_> = model.iter().map(|(key, token)| item(*key, *token)).collect();
    match step {
        Step::Roll => log.as_mut().expect("a log").roll().expect("a log"),
        Step::Snapshot => write_snapshot(log.as_mut().expect("a log"), &items),
        Step::TornSnapshot(count) => {
            let mut killed = log.take().expect("a log");
            let mut snapshot = killed.begin_snapshot().expect("begun");
            for item in items.iter().take(*count) {
                killed.add(&mut snapshot, item).expect("added");
            }
            drop(killed);
            *log = Some(store.open().0);
        }
        _ => {
            // The lock first.
            drop(log.take());
            *log = Some(store.open().0);
        }
    }
}

fn expected(model: &Model) -> BTreeMap<String, String> {
    let text = |key: usize| super::key(TOKEN_KEYS[key].0, TOKEN_KEYS[key].1).to_text();
    model.iter().map(|(key, token)| (text(*key), token.to_string())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn crash_at_any_byte_loses_at_most_the_last_operation(
        steps in steps(), last in (0..4usize, any::<u32>()), cut in any::<prop::sample::Index>(),
    ) {
        let store = Store::new();
        let (mut log, mut model) = (Some(store.open().0), Model::new());
        for step in &steps {
            run(&store, &mut log, step, &mut model);
        }
        let before = expected(&model);
        let number = Folder::unlocked(&store.path()).expect("a folder").logs().expect("logs").pop().expect("a log");
        let path = store.file(&format!("log-{number}"));
        let length = fs::metadata(&path).expect("a log").len();
        run(&store, &mut log, &Step::Put(last.0, last.1), &mut model);
        drop(log);
        let all = fs::metadata(&path).expect("a log").len();
        let kept = length + cut.index((all - length + 1) as usize) as u64;
        fs::File::options().write(true).open(&path).expect("a log").set_len(kept).expect("cut");
        let wanted = if kept == all { expected(&model) } else { before };
        prop_assert_eq!(tokens(&store.loaded()), wanted.clone());
        // And again after a start that writes.
        drop(store.open());
        prop_assert_eq!(tokens(&store.loaded()), wanted);
    }
}
