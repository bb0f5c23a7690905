//! What does not work until somebody changes something.

use tower_sse::backplane::{AppendError, Backplane, FollowError, Redis};

use crate::{
    fake::Fake,
    reader::{Reader, block},
    server::Server,
};

/// Both appending and reading are refused, with these words and without the password.
async fn is_refused(engine: &Redis, words: &[&str]) {
    let appending = engine.append(&block(1)).await.unwrap_err();
    assert!(matches!(appending, AppendError::Refused(_)), "{appending:?}");
    let reading = engine.follow(None).await.unwrap_err();
    assert!(matches!(reading, FollowError::Refused(_)), "{reading:?}");
    for error in [appending.to_string(), reading.to_string()] {
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        assert!(!error.contains("pass-word"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_evicts_any_key_is_refused_until_its_policy_changes() {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    let engine = server.engine();
    is_refused(&engine, &["allkeys-lru", "noeviction", &server.port.to_string()]).await;
    let _: String = server.tell("CONFIG SET maxmemory-policy volatile-lru");
    engine.append(&block(1)).await.unwrap();
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_refused() {
    let server = Server::start(&["--requirepass", "the-right-one"]);
    is_refused(&server.engine(), &["NOAUTH"]).await;
    let with = |password: &str| Redis::at(&format!("redis://:{password}@127.0.0.1:{}", server.port)).unwrap();
    is_refused(&with("pass-word"), &["WRONGPASS"]).await;
    with("the-right-one").append(&block(1)).await.unwrap();
}

#[tokio::test]
async fn a_user_without_permission_is_refused_and_the_documented_permissions_suffice() {
    let server = Server::start(&[]);
    let as_shop =
        || Redis::at(&format!("redis://shop:pass-word@127.0.0.1:{}", server.port)).unwrap().stream("shop/events");
    let _: String = server.tell("ACL SETUSER shop on >pass-word ~shop/events +xadd +xread +xrange +xlen +info");
    let engine = as_shop();
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);
    // With nothing to read, too.
    assert!(reader.next().await.unwrap().is_empty());
    assert!(Reader::follow(&engine, reader.mark).await.continues);
    is_refused(&as_shop().stream("other"), &["NOPERM"]).await;

    let _: String = server.tell("ACL SETUSER shop -info");
    as_shop().append(&block(2)).await.unwrap();

    let _: String = server.tell("ACL SETUSER shop -xadd -xread");
    let error = engine.append(&block(3)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Refused(why) if why.to_string().contains("NOPERM")), "{error}");
    let error = reader.error().await;
    assert!(matches!(&error, FollowError::Refused(why) if why.to_string().contains("NOPERM")), "{error}");

    let _: String = server.tell("ACL SETUSER shop off");
    is_refused(&as_shop(), &["WRONGPASS"]).await;
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_refused() {
    let server = Server::start(&[]);
    is_refused(&Redis::at(&format!("{}/99", server.url())).unwrap(), &["DB index is out of range"]).await;
}

#[tokio::test]
async fn a_key_of_another_type_is_refused() {
    let server = Server::start(&[]);
    let engine = server.engine();
    let _: String = server.tell("SET tower-sse text");
    is_refused(&engine, &["WRONGTYPE"]).await;
    let _: i64 = server.tell("DEL tower-sse");
    engine.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&engine, None).await;
    assert_eq!(reader.numbers(1).await, [1]);

    // While both connections are open.
    let _: String = server.tell("SET tower-sse text");
    let error = engine.append(&block(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused(_)), "{error:?}");
    let error = reader.error().await;
    assert!(matches!(error, FollowError::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn an_old_server_is_refused_with_both_versions() {
    let fake = Fake::start("6.0.16", "+OK\r\n").await;
    is_refused(&fake.engine(), &["6.0.16", "6.2"]).await;
}

#[tokio::test]
async fn a_server_that_is_loading_is_away() {
    let fake = Fake::start("7.0.15", "-LOADING Redis is loading the dataset in memory\r\n").await;
    let error = fake.engine().append(&block(1)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Away(why) if why.to_string().contains("LOADING")), "{error:?}");
    let error = fake.engine().follow(None).await.unwrap_err();
    assert!(matches!(&error, FollowError::Away(why) if why.to_string().contains("LOADING")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_listen_and_a_name_that_does_not_exist_are_away() {
    let mut server = Server::start(&[]);
    server.kill();
    for engine in [server.engine(), Redis::at("redis://no-such-host.invalid").unwrap()] {
        let error = engine.append(&block(1)).await.unwrap_err();
        assert!(matches!(error, AppendError::Away(_)), "{error:?}");
        let error = engine.follow(None).await.unwrap_err();
        assert!(matches!(error, FollowError::Away(_)), "{error:?}");
    }
}
