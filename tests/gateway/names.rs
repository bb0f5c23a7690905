//! Hosts, origins and client addresses: what the upstream is told, and what clients do not learn.

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{io::AsyncReadExt, sync::mpsc};

use crate::{
    Gateway,
    bodies::{AnyBody, any},
    client::{VERSIONS, get, request},
    proxying::{all, header, recording_upstream},
    raw, raw_upstream, upstream, within_20_s,
};

#[tokio::test]
async fn the_requested_host_and_the_origin_reach_the_upstream() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut request = get("/");
            request.headers_mut().insert("origin", HeaderValue::from_static("http://page.test"));
            gateway.client(version).await.send(request).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(all(&headers, "host"), ["server.test"]);
            assert_eq!(all(&headers, "origin"), ["http://page.test"]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_request_without_host_gets_the_upstreams_and_passes_two_gateways() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let inner = Gateway::start(&upstream, &[]).await;
        let outer = Gateway::start(&inner.server.url, &[]).await;
        for (gateway, forwarded) in [(&inner, None), (&outer, Some(inner.address.to_string()))] {
            let mut answer = String::new();
            raw(gateway.address, "GET / HTTP/1.0\r\n\r\n").await.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
            let headers = requests.recv().await.unwrap().headers;
            // The outer gateway forwards this host, and the inner one asks for it.
            let host = forwarded.as_deref().unwrap_or(upstream.trim_start_matches("http://"));
            assert_eq!(all(&headers, "host"), [host]);
            assert_eq!(headers.get("x-forwarded-host").map(|host| host.to_str().unwrap()), forwarded.as_deref());
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_that_is_not_allowed_gets_a_421_before_the_upstream() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &["--host", "Server.test", "--host", "other.test:8080"]).await;
        for version in VERSIONS {
            for (host, is_known) in [
                ("server.test", true),
                ("SERVER.TEST.", true),
                ("server.test:1234", true),
                ("other.test:8080", true),
                ("other.test", false),
                ("other.test:80", false),
                ("page.test", false),
                ("server.test.page.test", false),
                ("127.0.0.1", false),
            ] {
                let request = Request::get(format!("http://{host}/")).body(AnyBody::default()).unwrap();
                let response = gateway.client(version).await.send(request).await.unwrap();
                let expected = if is_known { StatusCode::OK } else { StatusCode::MISDIRECTED_REQUEST };
                assert_eq!(response.status(), expected, "{version:?} {host}");
                assert_eq!(
                    requests.try_recv().map(|seen| seen.headers["host"].clone()).ok(),
                    is_known.then(|| host.parse().unwrap())
                );
            }
        }
        let mut answer = String::new();
        raw(gateway.address, "GET / HTTP/1.0\r\n\r\n").await.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 421 "), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn with_upstream_host_the_gateway_itself_checks_the_requested_host() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &["--host", "server.test", "--upstream-host"]).await;
        for version in VERSIONS {
            gateway.client(version).await.send(get("/")).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(all(&headers, "host"), [upstream.trim_start_matches("http://")]);
            assert_eq!(headers["x-forwarded-host"], "server.test");
            let of_a_page = Request::get("http://page.test/").body(AnyBody::default()).unwrap();
            let response = gateway.client(version).await.send(of_a_page).await.unwrap();
            assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
        }
    })
    .await;
}

#[tokio::test]
async fn no_client_learns_the_upstreams_address() {
    within_20_s(async {
        for answer in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"] {
            let upstream = raw_upstream(answer).await;
            let port = upstream.rsplit(':').next().unwrap().to_owned();
            let gateway = Gateway::start(&upstream, &[]).await;
            for version in VERSIONS {
                let response = gateway.client(version).await.send(get("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
                let (head, body) = response.into_parts();
                let all = format!("{head:?} {:?}", body.collect().await.unwrap().to_bytes());
                assert!(!all.contains(&port) && !all.contains("127.0.0.1"), "{all}");
            }
        }
    })
    .await;
}

/// One of each kind. The list is the gateway's.
const CLAIMS: [&str; 78] = [
    "forwarded",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-client-cert",
    "x-forwarded-user",
    "x_forwarded_for",
    "x.forwarded.for",
    "x~real~ip",
    "x-auth-request-user",
    "x-goog-authenticated-user-email",
    "x-amzn-oidc-identity",
    "remote-email",
    "x-client-cert",
    "ssl-client-cert",
    "fly-client-ip",
    "cloudfront-viewer-address",
    "x-forward-for",
    "https",
    "x-script-name",
    "x-forwarded_for",
    "x_forwarded-host",
    "x_real_ip",
    "x-real-ip",
    "x-original-url",
    "x-original-host",
    "x-original-forwarded-for",
    "x-rewrite-url",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "client-cert",
    "proxy",
    "content_length",
    "transfer_encoding",
    "tailscale-user-login",
    "cf-access-authenticated-user-email",
    "x-authentik-username",
    "x-pomerium-claim-email",
    "x-vouch-user",
    "gap-auth",
    "x-auth-user",
    "x-auth-username",
    "x-auth-email",
    "x-consumer-username",
    "x-credential-identifier",
    "x-authenticated-userid",
    "x-amzn-mtls-clientcert",
    "x-apigateway-api-userinfo",
    "x-endpoint-api-userinfo",
    "x-appengine-user-email",
    "x-scope-orgid",
    "oidc-claim-sub",
    "oidc_claim_sub",
    "mellon-name-id",
    "x-shib-user",
    "proxy-remote-user",
    "x-ssl-cn",
    "l5d-client-id",
    "wl-proxy-client-cert",
    "x-user",
    "x-email",
    "x-forwarder-for",
    "z-forwarded-for",
    "http-x-forwarded-for",
    "http-client-ip",
    "x-ip",
    "x-backend-host",
    "x-server-name",
    "x-http-destinationurl",
    "x-http-path-override",
    "request-uri",
    "path-info",
    "_x_user",
    "__remote_user",
    "-x-real-ip",
];

#[tokio::test]
async fn headers_that_only_a_proxy_may_set_do_not_pass_from_a_client() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut request = get("/");
            request.headers_mut().extend(CLAIMS.map(|name| header((name, "192.0.2.1"))));
            request
                .headers_mut()
                .extend([("x-forwarded-for", "192.0.2.1"), ("api_key", "k"), ("x-stays", "1")].map(header));
            gateway.client(version).await.send(request).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            assert_eq!(all(&headers, "x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!((&headers["api_key"], &headers["x-stays"]), (&"k".parse().unwrap(), &"1".parse().unwrap()));
            let claimed: Vec<_> = CLAIMS.into_iter().filter(|name| headers.contains_key(*name)).collect();
            assert!(claimed.is_empty(), "{version:?}: {claimed:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn more_names_that_no_client_may_say_can_be_given() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let flags = ["--remove", "X-Our-User", "--remove", "x-sso-*"];
        let gateway = Gateway::start(&upstream, &flags).await;
        let trusting =
            Gateway::start(&upstream, &[&flags[..], &["--trusted-proxy", "::ffff:127.0.0.1"]].concat()).await;
        for version in VERSIONS {
            for (gateway, is_trusted) in [(&gateway, false), (&trusting, true)] {
                let mut request = get("/");
                let said = [
                    ("x-our-user", is_trusted),
                    ("x-sso-mail", is_trusted),
                    ("x_our_user", false),
                    ("x_sso_mail", false),
                    ("x-our-users", true),
                    ("x-sso", true),
                ];
                request.headers_mut().extend(said.map(|(name, _)| header((name, "admin"))));
                gateway.client(version).await.send(request).await.unwrap();
                let headers = requests.recv().await.unwrap().headers;
                for (name, stays) in said {
                    assert_eq!(headers.contains_key(name), stays, "{version:?} {name}, trusted: {is_trusted}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_proxy_says_that_is_trusted_goes_on_but_for_what_is_in_disguise() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let trusting = Gateway::start(&upstream, &["--trusted-proxy", "::1", "--trusted-proxy", "127.0.0.1"]).await;
        let trusting_another = Gateway::start(&upstream, &["--trusted-proxy", "127.0.0.2"]).await;
        for version in VERSIONS {
            for (gateway, is_trusted) in [(&trusting, true), (&trusting_another, false)] {
                let mut request = get("/");
                let said = [
                    ("x-forwarded-for", "192.0.2.1"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "outside.test"),
                    ("x-real-ip", "192.0.2.1"),
                    ("x_real_ip", "192.0.2.2"),
                ];
                request.headers_mut().extend(said.map(header));
                gateway.client(version).await.send(request).await.unwrap();
                let headers = requests.recv().await.unwrap().headers;
                let expected = match is_trusted {
                    true => ["192.0.2.1, 127.0.0.1", "https", "outside.test"],
                    false => ["127.0.0.1", "http", "server.test"],
                };
                let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
                assert_eq!(names.map(|name| headers[name].to_str().unwrap()), expected);
                assert_eq!(headers.contains_key("x-real-ip"), is_trusted);
                assert!(!headers.contains_key("x_real_ip"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_that_only_a_proxy_may_set_do_not_pass() {
    within_20_s(async {
        let (seen, mut trailers) = mpsc::unbounded_channel();
        let upstream = upstream(move |request: Request<_>| {
            let seen = seen.clone();
            async move {
                let body = request.into_body().collect().await.unwrap();
                seen.send(body.trailers().cloned().unwrap()).unwrap();
                Response::new(AnyBody::default())
            }
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let names =
            ["x-sum", "x-forwarded-for", "x_forwarded_for", "forwarded", "x-real-ip", "via", "location", "cookie"];
        for version in VERSIONS {
            let said: HeaderMap = names.map(|name| header((name, "192.0.2.1"))).into_iter().collect();
            let frames = [Frame::data("some".into()), Frame::trailers(said)].map(Ok::<_, Infallible>);
            let body = any(StreamBody::new(tokio_stream::iter(frames)));
            let mut request = request("POST", "/", body);
            request.headers_mut().insert("trailer", HeaderValue::from_str(&names.join(", ")).unwrap());
            gateway.client(version).await.send(request).await.unwrap();
            let trailers = trailers.recv().await.unwrap();
            assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
        }
    })
    .await;
}

#[tokio::test]
async fn via_is_appended_in_both_directions() {
    within_20_s(async {
        let (seen, mut requests) = mpsc::unbounded_channel::<Parts>();
        let upstream = upstream(move |request| {
            seen.send(request.into_parts().0).unwrap();
            async {
                Response::builder()
                    .header("via", "1.0 inner.test:9000 (old), HTTP/1.1 10.0.0.1")
                    .body(AnyBody::default())
                    .unwrap()
            }
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for (version, said) in [(Version::HTTP_11, "1.1 gateway-"), (Version::HTTP_2, "2 gateway-")] {
            let mut request = get("/");
            request.headers_mut().insert("via", HeaderValue::from_static("1.1 outer"));
            let response = gateway.client(version).await.send(request).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            for (headers, before, own) in
                [(&headers, "1.1 outer", said), (response.headers(), "1.0 upstream, HTTP/1.1 upstream", "1.1 gateway-")]
            {
                let via = all(headers, "via");
                assert!(via.len() == 2 && via[0] == before && via[1].starts_with(own), "{via:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_loops_is_a_508() {
    within_20_s(async {
        // A port that is free now, so that the gateway can be its own upstream.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let itself = format!("http://{free}");
        let gateway = Gateway::start(&itself, &["--listen", &free]).await;
        assert_eq!(gateway.server.url, itself);
        // A loop of two gateways.
        let outer = Gateway::start(&itself, &[]).await;
        for gateway in [&gateway, &outer] {
            for version in VERSIONS {
                let response = gateway.client(version).await.send(get("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::LOOP_DETECTED);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_via_hides_no_loop() {
    within_20_s(async {
        let (upstream, mut requests) = recording_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            client.send(get("/")).await.unwrap();
            let headers = requests.recv().await.unwrap().headers;
            let own = headers["via"].to_str().unwrap().split(' ').nth(1).unwrap().to_owned();
            // A proxy in the loop may join the fields after a comment that a client began and never ended.
            for via in [
                "1.1 a (unended, 1.1 {}",
                "1.1 \"unended, 1.1 {}",
                "1.1  {}",
                "1.1\t \t{}",
                "{}",
                "x 1.1 {} (b)",
                "1.1 {}\\",
            ] {
                for own in [&own, &own.to_uppercase()] {
                    let mut request = get("/");
                    request.headers_mut().insert("via", HeaderValue::from_str(&via.replace("{}", own)).unwrap());
                    let response = client.send(request).await.unwrap();
                    assert_eq!(response.status(), StatusCode::LOOP_DETECTED, "{version:?} {via}");
                }
            }
            let mut request = get("/");
            request.headers_mut().insert("via", HeaderValue::from_static("1.1 gateway-0 (unended"));
            assert_eq!(client.send(request).await.unwrap().status(), StatusCode::OK);
            requests.recv().await.unwrap();
        }
    })
    .await;
}
