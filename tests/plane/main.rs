//! The token plane between two nodes of one process: one contract, held over QUIC on loopback and
//! over a pipe in memory; and what only QUIC can get wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod contract;
mod endpoints;
mod hostile;
mod pair;
mod served;

macro_rules! on_both_paths {
    ($($module:ident::$name:ident),* $(,)?) => {
        mod quic {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::pair::Kind::Quic).await;
            }
        )*}
        mod memory {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::pair::Kind::Memory).await;
            }
        )*}
    };
}

on_both_paths! {
    contract::a_whole_session_is_the_same_as_here,
    contract::sessions_do_not_hear_each_other,
    contract::a_refusal_arrives_as_it_was_said,
    contract::an_expert_that_ends_mid_sentence_is_gone_at_once,
    contract::dropping_the_expert_closes_its_sessions,
    contract::a_router_that_vanishes_after_open_is_not_waited_for,
    contract::bench_round_trip,
    hostile::another_mesh_another_version_and_a_circle_are_refused,
    hostile::an_oversize_frame_is_refused,
    hostile::rubbish_leaves_the_server_working,
    hostile::an_epoch_that_is_over_is_refused,
    hostile::a_writer_of_single_bytes_is_served_and_one_that_stalls_is_not,
    hostile::a_reader_that_never_reads_is_cut_off,
    hostile::an_expert_that_lies_is_ended_with_the_reason,
}
