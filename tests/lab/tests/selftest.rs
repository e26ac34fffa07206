//! The lab itself, with an Envoy that has no filter.
#![allow(clippy::expect_used, reason = "a test says where it broke")]

use meshweft_lab::app::App;
use meshweft_lab::client::{self, Client, Version};
use meshweft_lab::config::{Direction, bootstrap, cluster, cluster_h2, listener, node, route};
use meshweft_lab::envoy::Envoy;

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_through_a_plain_envoy() {
    let app = App::start().await;
    let plain = |name, to| listener(name, Direction::Inbound, vec![], vec![route("/", to)], None);
    let envoy = Envoy::start(
        &bootstrap(
            node("plain"),
            vec![plain("h1", "app"), plain("h2", "app-h2")],
            vec![cluster("app", app.address()), cluster_h2("app-h2", app.address())],
        ),
        2,
    )
    .await;

    let h1 = Client::new(Version::H1);
    let answer = h1.get(envoy.listener("h1"), "/x", &[("x-a", b"\xff1")]).await.expect("answer");
    assert_eq!((answer.status, &*answer.body), (200, &b"ok\n"[..]));
    let seen = app.last();
    assert_eq!(
        (seen.path.as_str(), &seen.headers.iter().find(|(n, _)| n == "x-a").expect("x-a").1[..]),
        ("/x", &b"\xff1"[..])
    );

    let h2 = Client::new(Version::H2);
    let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
    let answer = h2
        .send("POST", envoy.listener("h2"), "/shop.Orders/Fail", &grpc, bytes::Bytes::new())
        .await
        .expect("answer");
    assert_eq!(answer.trailers, [("grpc-status".to_owned(), b"14".to_vec())]);

    for (path, status) in
        [("/status/404", 404), ("/reset", 503), ("/flaky/1", 503), ("/flaky/1", 200)]
    {
        let answer = h1.get(envoy.listener("h1"), path, &[]).await.expect("answer");
        assert_eq!(answer.status, status, "{path}");
    }
    h1.get(envoy.listener("h1"), "/half", &[]).await.expect_err("half an answer");

    let raw = b"GET /raw HTTP/1.1\r\nhost: a\r\nx: \xff\r\nconnection: close\r\n\r\n";
    let answer = client::raw(envoy.listener("h1"), raw).await.expect("answer");
    assert_eq!(answer.status, 200);
    envoy.stop().await;
}
