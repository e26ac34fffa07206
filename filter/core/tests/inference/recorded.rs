//! What a real Envoy has seen of a real application, as `make bench-correlation` writes it down.
//!
//! A line `in flight 4` begins what was seen with about four requests at once (0: one after the
//! other). Each line after it is a request or a call: when it began and how long it took, in
//! microseconds, the number of the request (of a call, the one that made it; `-`: none did), and
//! `in` for a request or the path of a call.

use crate::workload::Seen;

/// What happened, by load, and when, in microseconds.
pub(crate) fn read(text: &str) -> Vec<(u32, Vec<(u64, Seen)>)> {
    let mut loads: Vec<(u32, Vec<(u64, Seen)>)> = Vec::new();
    for (call, line) in text.lines().enumerate() {
        if let Some(load) = line.strip_prefix("in flight ") {
            loads.push((load.parse().unwrap(), Vec::new()));
            continue;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let [began, took, request, what] = fields[..] else { panic!("four fields: {line}") };
        let (began, took): (u64, u64) = (began.parse().unwrap(), took.parse().unwrap());
        let request = request.parse().ok();
        let (begins, ends) = match (what, request) {
            ("in", Some(request)) => (Seen::Begins { request, route: 1 }, Seen::Ends { request }),
            ("in", None) => panic!("a request has a number: {line}"),
            _ => {
                // Paths differ in their last letter.
                let callee = what.bytes().last().unwrap().into();
                let calls = Seen::Calls { call, callee, request, known: false };
                (calls, Seen::Answered { call })
            }
        };
        let (_, events) = loads.last_mut().unwrap();
        events.extend([(began, begins), (began + took, ends)]);
    }
    for (_, events) in &mut loads {
        events.sort_by_key(|(at, _)| *at);
    }
    loads
}
