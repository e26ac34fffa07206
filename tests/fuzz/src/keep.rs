//! Any bytes as what hops tell one another (`sampling.keep.propagate`), and in the shared data
//! where the two sides of a proxy meet, which any plugin may write.

use std::hash::{DefaultHasher, Hash, Hasher};

use meshweft_core::config::{Config, Mode};
use meshweft_core::model::{
    Exchange, HeaderEdit, Headers, Local, Metric, MetricId, MonoNanos, Shared, UnixNanos,
};
use meshweft_core::plugin::Plugin;
use meshweft_core::sampling::{ANSWER, KeepReason, QUESTION};
use meshweft_core::stream::Stream;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const NOW: MonoNanos = MonoNanos(1_000_000_000_000);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const ALWAYS: u32 = 0;
const MODES: [&str; 3] = ["inbound", "outbound", "gateway"];
const SECRET: &str = r#", "secret": "0123456789abcdef""#;

/// Whatever is asked, answered and found in the store: nothing of it goes on to an application or
/// to a client, at most one span comes of a request, and with a secret none.
///
/// The input is a line for the question, a line for the answer, and the bytes of the store.
pub fn keep(input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default().to_vec();
    let (question, answer, store) = (line(), line(), line());
    // libFuzzer sees what memory is compared with, the right seal too. Ids of their own for each
    // input make what it has seen of no use, as they do for whoever sees the headers of a request.
    let mut ids = DefaultHasher::new();
    input.hash(&mut ids);
    for mode in MODES {
        for secret in ["", SECRET] {
            let told = Told { question: &question, answer: &answer };
            hop(mode, secret, told, &store, SmallRng::seed_from_u64(ids.finish()));
        }
    }
}

fn plugin(mode: &str, secret: &str) -> Plugin {
    let config = format!(
        r#"{{"mode": "{mode}", "export": {{"cluster": "c"}}, "sampling": {{"rate": 0, "keep":
            {{"errors": true, "slower_than": "1s", "propagate": true{secret}}}}}}}"#
    );
    let config = Config::parse(config.as_bytes(), &|_| None).expect("a configuration");
    Plugin::new(config, None, &|_| None)
}

fn hop(mode: &str, secret: &str, told: Told<'_>, store: &[u8], mut rng: SmallRng) {
    let shared = Local::default();
    shared.clock.set(NOW);
    // What both sides write for this trace shows where; a stranger then writes there.
    for (mode, answer) in [("inbound", &b""[..]), ("outbound", b"errors")] {
        serve(&mut plugin(mode, ""), &shared, Told { question: b"", answer }, &mut rng);
    }
    let keys = shared.keys();
    assert_eq!(keys.len(), 2, "the span that came in, and the verdict: {keys:?}");
    for key in keys {
        shared.set(&key, store, ALWAYS).expect("the store takes it");
    }
    let mut plugin = plugin(mode, secret);
    let told_to_the_caller = serve(&mut plugin, &shared, told, &mut rng);

    let mut counts = [0_i64; Metric::ALL.len()];
    for update in plugin.metrics.take() {
        if let MetricId::Fixed(metric) = update.metric {
            counts[metric as usize] += update.value;
        }
    }
    let count = |metric: Metric| counts[metric as usize];
    assert_eq!((count(Metric::Requests), count(Metric::NotSampled)), (1, 1));
    let kept = count(Metric::Kept);
    assert_eq!((kept, count(Metric::QueueSpans)), (kept, kept));
    let answers = str::from_utf8(told.answer).ok();
    let known = answers.is_some_and(|text| KeepReason::ALL.iter().any(|r| r.name() == text));
    match mode {
        // What the other side of the proxy has left may be a stranger's: a span more at most.
        "inbound" => assert!(kept <= 1, "{kept}"),
        _ if secret.is_empty() => assert_eq!(kept, i64::from(known), "{answers:?}"),
        _ => assert_eq!(kept, 0, "a seal was guessed"),
    }
    if let Some(verdict) = told_to_the_caller {
        assert_eq!((mode, secret, told.question), ("inbound", "", &b"1"[..]));
        assert!(KeepReason::ALL.iter().any(|reason| reason.name() == verdict), "{verdict}");
    }
}

/// A request and its answer, in headers and then in trailers; gives the verdict that its caller
/// gets.
fn serve(
    plugin: &mut Plugin,
    shared: &Local,
    told: Told<'_>,
    rng: &mut SmallRng,
) -> Option<String> {
    let mut stream = Stream::default();
    let effects = stream.on_request_headers(plugin, &told, shared, rng);
    let asked = !told.question.is_empty();
    let mut goes_on = asked.then(|| told.question.to_vec());
    apply(&mut goes_on, QUESTION, effects.edits);
    // Only our own question goes to the next hop, and none to a workload.
    let ours = goes_on.is_some_and(|question| question.starts_with(b"1"));
    assert_eq!(ours, plugin.config().mode != Mode::Inbound);
    let headers = stream.on_response_headers(plugin, &told, shared, UnixNanos::default);
    let mut verdict = Some(told.answer.to_vec()).filter(|answer| !answer.is_empty());
    apply(&mut verdict, ANSWER, headers);
    let trailers = stream.on_response_trailers(plugin, &told, shared);
    let mut late = None;
    apply(&mut late, ANSWER, trailers);
    stream.on_log(plugin, &told, shared, rng);
    assert!(stream.has_ended());
    let verdict = verdict.or(late)?;
    Some(String::from_utf8(verdict).expect("a verdict of ours is text"))
}

/// What `edits` leave of the header `name`.
fn apply(value: &mut Option<Vec<u8>>, name: &str, edits: impl IntoIterator<Item = HeaderEdit>) {
    for edit in edits {
        match edit {
            HeaderEdit::Add(other, text) | HeaderEdit::Set(other, text) if other == name => {
                *value = Some(text.into_bytes());
            }
            HeaderEdit::Remove(other) if other == name => *value = None,
            HeaderEdit::Add(..) | HeaderEdit::Remove(_) | HeaderEdit::Set(..) => {}
        }
    }
}

/// A request with a question, and its answer, whose status is no failure.
#[derive(Clone, Copy)]
struct Told<'a> {
    question: &'a [u8],
    answer: &'a [u8],
}

impl Exchange for Told<'_> {
    fn request_headers(&self) -> Headers {
        let mut pairs: Vec<(&[u8], &[u8])> =
            vec![(b":method", b"GET"), (b":path", b"/"), (b"traceparent", PARENT.as_bytes())];
        if !self.question.is_empty() {
            pairs.push((QUESTION.as_bytes(), self.question));
        }
        pairs.into_iter().collect()
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            ":status" => Some(b"200".to_vec()),
            ANSWER if !self.answer.is_empty() => Some(self.answer.to_vec()),
            _ => None,
        }
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        (path == ["response", "code"]).then(|| 200_i64.to_le_bytes().to_vec())
    }
}
