//! The upstream's addresses in responses, and what clients receive in their place.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{io::AsyncReadExt, net::UdpSocket};

use crate::{
    Gateway,
    bodies::{AnyBody, any},
    client::{Client, VERSIONS, get},
    proxying::all,
    raw, raw_upstream, read_until, upstream, within_20_s,
};

/// Adds a header to its response, as the request asks: `x-name: x-say`.
async fn saying_upstream() -> String {
    upstream(|request: Request<_>| async move {
        let mut response = Response::new(AnyBody::default());
        let name: HeaderName = request.headers()["x-name"].to_str().unwrap().parse().unwrap();
        let said = request.headers()["x-say"].clone();
        response.headers_mut().insert(name, said);
        response
    })
    .await
}

/// Returns the header that a client receives if the upstream sends `said`.
async fn read(client: &mut Client, name: &'static str, said: &str) -> Option<String> {
    read_behind(client, name, said, &[]).await
}

async fn read_behind(
    client: &mut Client,
    name: &'static str,
    said: &str,
    proxy: &[(&'static str, &'static str)],
) -> Option<String> {
    let mut request = get("/");
    request.headers_mut().extend(proxy.iter().copied().map(crate::proxying::header));
    request.headers_mut().insert("x-say", HeaderValue::from_str(said).unwrap());
    request.headers_mut().insert("x-name", HeaderValue::from_static(name));
    let response = client.send(request).await.unwrap();
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

fn port_of(upstream: &str) -> &str {
    upstream.rsplit(':').next().unwrap()
}

#[tokio::test]
async fn redirects_lead_to_the_gateway_in_every_form_that_browsers_accept() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&format!("{upstream}/base"), &[]).await;
        let port = port_of(&upstream);
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for (said, expected) in [
                (format!("{upstream}/base/a?b=c#d"), "/a?b=c#d"),
                (format!("{upstream}/base"), "/"),
                (format!("{upstream}/base?q"), "/?q"),
                (format!("{upstream}/elsewhere"), "/elsewhere"),
                (format!("{upstream}/based"), "/based"),
                (upstream.clone(), "/"),
                (format!("HTTP://127.0.0.1:{port}/base/"), "/"),
                (format!("//127.0.0.1:{port}/base/x"), "/x"),
                (format!("///127.0.0.1:{port}/base/x"), "/x"),
                (format!("\\\\127.0.0.1:{port}\\base\\x"), "/x"),
                (format!("/\\127.0.0.1:{port}/x"), "/x"),
                (format!("http:\\\\127.0.0.1:{port}\\x"), "/x"),
                (format!("http:/\\/127.0.0.1:{port}/x"), "/x"),
                (format!("https:127.0.0.1:{port}/x"), "/x"),
                (format!("http:127.0.0.1:{port}/x"), "/x"),
                (format!("ht\ttp://127.0\t.0.1:{port}/x"), "/x"),
                (format!("\thttp://127.0.0.1:{port}/x"), "/x"),
                (format!("http://user:pw@127.0.0.1:{port}/base/x"), "/x"),
                (format!("http://server.test@127.0.0.1:{port}/x"), "/x"),
                (format!("https://localhost:{port}/base/x"), "/x"),
                (format!("http://LocalHost.:{port}/x"), "/x"),
                (format!("http://upstream.localhost:{port}/x"), "/x"),
                (format!("http://[::1]:{port}/x"), "/x"),
                (format!("http://[::ffff:127.0.0.1]:{port}/x"), "/x"),
                (format!("http://0.0.0.0:{port}/x"), "/x"),
                (format!("http://127.1:{port}/x"), "/x"),
                (format!("http://0x7f000001:{port}/x"), "/x"),
                (format!("http://2130706433:{port}/x"), "/x"),
                (format!("http://%31%32%37.0.0.1:{port}/x"), "/x"),
                (format!("ws://127.0.0.1:{port}/x"), "/x"),
                ("/base/x".to_owned(), "/x"),
                // None of these may become the beginning of another host's name.
                (format!("{upstream}//page.test/"), "/page.test/"),
                (format!("{upstream}/base///page.test/"), "/page.test/"),
                (format!("{upstream}/base/\\page.test/"), "/page.test/"),
                (format!("{upstream}/\t/page.test/"), "/page.test/"),
                (format!("{upstream}/base/..//page.test/"), "/page.test/"),
                (format!("{upstream}/.//page.test/"), "/page.test/"),
                ("/base//page.test/".to_owned(), "/page.test/"),
                ("/base/\\page.test/".to_owned(), "/page.test/"),
                // These do not name the upstream.
                ("http://server.test/base/x".to_owned(), "http://server.test/base/x"),
                ("https://elsewhere.test//x".to_owned(), "https://elsewhere.test//x"),
                ("http://127.0.0.1:1/x".to_owned(), "http://127.0.0.1:1/x"),
                ("relative?to=//it".to_owned(), "relative?to=//it"),
                ("/login".to_owned(), "/login"),
            ] {
                for name in ["location", "content-location"] {
                    assert_eq!(read(&mut client, name, &said).await.unwrap(), expected, "{version:?} {name}: {said:?}");
                }
                let is_same = said == expected;
                let of_link = read(&mut client, "link", &format!("<{said}>; rel=next, </login>")).await.unwrap();
                assert_eq!(of_link, format!("<{expected}>; rel=next, </login>"), "{version:?} {said:?}");
                for refresh in ["5;URL='{}'", "0; url=\"{}\" ", "0;{}", "0,{}", "1.5 url={}", "3 ; Url = {}"] {
                    let refresh = refresh.replace("{}", &said);
                    let got = read(&mut client, "refresh", &refresh).await.unwrap();
                    let seconds = refresh.split([';', ',', ' ']).next().unwrap();
                    let expected = format!("{seconds}; url={expected}");
                    let expected = if is_same { refresh.trim() } else { &expected };
                    assert_eq!(got, expected, "{version:?} {refresh:?}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn other_headers_have_the_host_that_the_client_asked_for() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let (authority, port) = (upstream.trim_start_matches("http://"), port_of(&upstream));
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for (name, said, expected) in [
                (
                    "www-authenticate",
                    format!("Bearer realm=\"{authority}\", resource_metadata=\"{upstream}/.well-known/x?y={authority}\""),
                    "Bearer realm=\"server.test\", resource_metadata=\"http://server.test/.well-known/x?y=server.test\"",
                ),
                ("www-authenticate", "Basic realm=\"127.0.0.1\"".to_owned(), "Basic realm=\"server.test\""),
                ("www-authenticate", format!("Bearer a=http://LOCALHOST:{port}"), "Bearer a=http://server.test"),
                ("www-authenticate", format!("Bearer a=\"http:\\/\\/[::1]:{port}\\/x\""), "Bearer a=\"http://server.test/x\""),
                ("www-authenticate", "Basic realm=\"elsewhere.test\"".to_owned(), "Basic realm=\"elsewhere.test\""),
                ("access-control-allow-origin", upstream.clone(), "http://server.test"),
                ("access-control-allow-origin", "http://page.test".to_owned(), "http://page.test"),
                ("access-control-allow-origin", "*".to_owned(), "*"),
                ("timing-allow-origin", format!("{upstream}, http://localhost:{port}"), "http://server.test, http://server.test"),
                ("content-security-policy", format!("connect-src 'self' {upstream} ws://{authority};"), "connect-src 'self' http://server.test http://server.test;"),
                ("server-timing", format!("up;desc=\"{authority}\", db;dur=1.5"), "up;desc=\"server.test\", db;dur=1.5"),
                ("reporting-endpoints", format!("a=\"{upstream}/report\""), "a=\"http://server.test/report\""),
                ("report-to", format!("{{\"endpoints\":[{{\"url\":\"{upstream}/r\"}}]}}"), "{\"endpoints\":[{\"url\":\"http://server.test/r\"}]}"),
                ("warning", format!("110 {authority} \"old\""), "110 server.test \"old\""),
                ("x-anything", format!("see {upstream}."), "see http://server.test."),
                ("link", format!("<x>; rel=\"next\"; anchor=\"{upstream}/a\""), "<x>; rel=\"next\"; anchor=\"http://server.test/a\""),
                ("location", format!("https://login.test/?back={upstream}/x"), "https://login.test/?back=http://server.test/x"),
                ("x-anything", "127.0.0.1 at 12:30, v1.2; text/html".to_owned(), "127.0.0.1 at 12:30, v1.2; text/html"),
            ] {
                assert_eq!(read(&mut client, name, &said).await.unwrap(), expected, "{version:?} {name}: {said}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_upstream_is_found_whatever_stands_around_it() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let port = port_of(&upstream);
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for around in [
                "a\t{}\tb",
                "tcp://{}",
                "grpc://{}/x",
                "redis://{}/0",
                "[{}]",
                "&host={}&x",
                "host:{}",
                "a+{}",
                "#{}",
                "~{}_x",
                "`{}`",
                "${}",
                "*{}-1",
                "x/{}:",
                "{\"h\":\"{}\"}",
                "\\\"{}\\\"",
                "a={}&b={}",
            ] {
                for name in ["127.0.0.1", "localhost", "LocalHost.", "[::1]", "::1", "::ffff:127.0.0.1", "2130706433"] {
                    let said = around.replace("{}", &format!("{name}:{port}"));
                    let expected = around.replace("{}", "server.test");
                    assert_eq!(read(&mut client, "x-anything", &said).await.unwrap(), expected, "{version:?} {said}");
                }
            }
            for (name, said, expected) in [
                ("server", format!("foo/127.0.0.1:{port}"), "foo/server.test"),
                ("x-node", format!("node-127.0.0.1:{port}"), "node-server.test"),
                ("x-node", format!("127.0.0.1\\:{port}"), "server.test"),
                (
                    "set-cookie",
                    format!("a=127.0.0.1:{port}; Foo=127.0.0.1:{port}"),
                    "a=127.0.0.1:PORT; Foo=server.test",
                ),
                // None of these is the upstream's.
                ("x-node", format!("127.0.0.1:{port}0"), "127.0.0.1:PORT0"),
                ("x-node", format!("other.test:{port}, notlocalhost:{port}"), "other.test:PORT, notlocalhost:PORT"),
                (
                    "x-node",
                    format!("at 12:{port} {port} :{port} [2001:db8::1]:{port}"),
                    "at 12:PORT PORT :PORT [2001:db8::1]:PORT",
                ),
            ] {
                let got = read(&mut client, name, &said).await.unwrap().replace(port, "PORT");
                assert_eq!(got, expected, "{version:?} {name}: {said}");
            }
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_name_of_this_machine_is_one_of_an_upstream_that_is_here() {
    within_20_s(async {
        let machine = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let port = port_of(&upstream);
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for (name, said, expected) in [
                ("location", format!("http://{machine}:{port}/a"), "/a".to_owned()),
                ("x-powered-by", machine.to_uppercase(), "server.test".to_owned()),
                ("x-cache", format!("HIT from {machine}, not{machine}"), format!("HIT from server.test, not{machine}")),
                ("server", format!("foo/1.2 ({machine})"), "foo/1.2 (server.test)".to_owned()),
                ("x-node", format!("tcp://{machine}:{port}"), "tcp://server.test".to_owned()),
                // It may be a word of the standards.
                ("vary", machine.clone(), machine.clone()),
            ] {
                assert_eq!(read(&mut client, name, &said).await.unwrap(), expected, "{version:?} {name}: {said}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_are_the_same_ones_in_what_the_client_reads() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for (name, path, expected) in [
                ("location", &b"/a\xff\xc3\xa9"[..], &b"/a%FF%C3%A9"[..]),
                ("x-anything", b"/a b\xff\xc3\xa9", b"http://server.test/a b\xff\xc3\xa9"),
            ] {
                let mut request = get("/");
                let said = [upstream.as_bytes(), path].concat();
                request.headers_mut().insert("x-say", HeaderValue::from_bytes(&said).unwrap());
                request.headers_mut().insert("x-name", HeaderValue::from_static(name));
                let response = client.send(request).await.unwrap();
                assert_eq!(response.headers()[name].as_bytes(), expected, "{version:?} {name}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_it_is_the_name_that_the_proxy_was_asked_by() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let outside = [("x-forwarded-host", "outside.test:8443"), ("x-forwarded-proto", "https")];
        for (flags, expected) in
            [(&["--trusted-proxy", "127.0.0.1"][..], "https://outside.test:8443"), (&[], "http://server.test")]
        {
            let gateway = Gateway::start(&upstream, flags).await;
            for version in VERSIONS {
                let mut client = gateway.client(version).await;
                let got = read_behind(&mut client, "access-control-allow-origin", &upstream, &outside).await;
                assert_eq!(got.unwrap(), expected);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_cookie_for_the_upstream_becomes_one_for_the_requested_host() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(
            &format!("{}/base", upstream.replace("127.0.0.1", "localhost")),
            &["--upstream-name", "up.inner.test"],
        )
        .await;
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for (said, expected) in [
                ("a=b; Domain=Localhost; Secure", "a=b; Secure"),
                ("a=b; domain=.Inner.TEST; Path=/base/x", "a=b; Path=/x"),
                ("a=b; DOMAIN = \"127.0.0.1\"; HttpOnly", "a=b; HttpOnly"),
                ("a=b; Domain=up.inner.test", "a=b"),
                ("a=b; Domain=ner.test", "a=b; Domain=ner.test"),
                ("a=b; Domain=server.test; Path=/based", "a=b; Domain=server.test; Path=/based"),
                ("domain=127.0.0.1; Path=/base", "domain=127.0.0.1; Path=/"),
            ] {
                assert_eq!(read(&mut client, "set-cookie", said).await.unwrap(), expected, "{version:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn headers_about_the_inside_are_removed() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let authority = upstream.trim_start_matches("http://");
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for name in [
                "alt-svc",
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-server",
                "x-real-ip",
                "x-served-by",
                "x-backend-server",
                "x-upstream-addr",
                "x-envoy-upstream-service-time",
                "proxy-status",
                "proxy-authenticate",
            ] {
                assert_eq!(read(&mut client, name, "inner").await, None, "{version:?} {name}");
            }
            for (said, expected) in [
                (format!("1.1 {authority} (a, {authority} b), {authority}"), "1.1 upstream"),
                (format!("{authority}, 1.1"), ""),
                ("1.0 a, HTTP/1.1 b".to_owned(), "1.0 upstream, HTTP/1.1 upstream"),
            ] {
                // The last line is the gateway's own.
                let via = read(&mut client, "via", &said).await.unwrap();
                assert!(if expected.is_empty() { via.starts_with("1.1 gateway-") } else { via == expected }, "{via}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_upstreams_and_the_machines_own_addresses_are_hidden_too() {
    within_20_s(async {
        // The address by which this machine reaches others, if it has one. No packet is sent.
        let outward = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let outward: Option<IpAddr> =
            outward.connect("192.0.2.1:9").await.ok().map(|()| outward.local_addr().unwrap().ip());
        let upstream = saying_upstream().await;
        let port = port_of(&upstream);
        let named = format!("http://localhost:{port}");
        let gateway = Gateway::start(&named, &["--upstream-name", "inner.test", "--upstream-name", "o.test:9"]).await;
        let mut names =
            vec![named, upstream.clone(), format!("http://[::1]:{port}"), format!("http://127.0.0.9:{port}")];
        names.extend(outward.filter(|ip| ip.is_ipv4()).map(|ip| format!("http://{ip}:{port}")));
        names.extend(
            ["http://inner.test", "http://inner.test:1", "https://Inner.Test.", "http://o.test:9"].map(Into::into),
        );
        for version in VERSIONS {
            let mut client = gateway.client(version).await;
            for name in &names {
                let got = read(&mut client, "location", &format!("{name}/x")).await.unwrap();
                assert_eq!(got, "/x", "{version:?} {name}");
                let got = read(&mut client, "www-authenticate", &format!("Bearer a=\"{name}/\"")).await.unwrap();
                assert_eq!(got, "Bearer a=\"http://server.test/\"", "{version:?} {name}");
            }
            for other in ["http://o.test/x", "http://192.0.2.1/x", "http://notinner.test/x"] {
                assert_eq!(read(&mut client, "location", other).await.unwrap(), other);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_do_not_name_the_upstream_either() {
    within_20_s(async {
        let upstream = upstream(|request: Request<_>| async move {
            let said = request.headers()["x-say"].clone();
            let trailers: HeaderMap = ["server-timing", "x-served-by", "location"]
                .map(|name| (HeaderName::from_static(name), said.clone()))
                .into_iter()
                .collect();
            let frames = [Frame::data("some".into()), Frame::trailers(trailers)].map(Ok::<_, std::convert::Infallible>);
            let mut response = Response::new(any(StreamBody::new(tokio_stream::iter(frames))));
            let names = HeaderValue::from_static("server-timing, x-served-by, location");
            response.headers_mut().insert("trailer", names);
            response
        })
        .await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for version in VERSIONS {
            let mut request = get("/");
            request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
            request.headers_mut().insert("x-say", HeaderValue::from_str(&format!("a;desc=\"{upstream}\"")).unwrap());
            let response = gateway.client(version).await.send(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().unwrap();
            assert_eq!(all(trailers, "server-timing"), ["a;desc=\"http://server.test\""], "{version:?}");
            assert_eq!(trailers.len(), 1, "{trailers:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_header_that_needs_a_host_is_removed_for_a_client_without_host() {
    within_20_s(async {
        let upstream = saying_upstream().await;
        let gateway = Gateway::start(&upstream, &[]).await;
        for (name, expected) in [("access-control-allow-origin", None), ("location", Some("/"))] {
            let request = format!("GET / HTTP/1.0\r\nx-name: {name}\r\nx-say: {upstream}\r\n\r\n");
            let mut answer = String::new();
            raw(gateway.address, &request).await.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
            assert!(!answer.contains(port_of(&upstream)), "{answer}");
            let line = format!("\r\n{name}: {}\r\n", expected.unwrap_or_default());
            assert_eq!(answer.contains(&line), expected.is_some(), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_reason_phrase_is_the_standard_one() {
    within_20_s(async {
        let upstream = raw_upstream("HTTP/1.1 404 not at inner.test:9000\r\ncontent-length: 0\r\n\r\n").await;
        let gateway = Gateway::start(&upstream, &[]).await;
        let head =
            read_until(&mut raw(gateway.address, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
        let response = gateway.client(Version::HTTP_2).await.send(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    })
    .await;
}
