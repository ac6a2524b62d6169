"""The only place that knows FFmpeg: from a clip's file to frames with exact times, and back to a file.

In the order in which a render meets them::

    info = probe.probe(target)                                          # ClipInfo, or a named error
    writer.check_encoder(settings.encoder, output, settings, info.bits)  # before anything costs time
    index, _ = part.cut(index.index_frames(info), start, end)           # every frame's time, by demuxing
    plan = timeline.plan_timeline(index.times, index.last_duration, voice.seconds, fit)
    with staging.staging_folder(output, overwrite) as folder, reader.ClipReader(info, index, deep=True) as clip:
        encoded = folder / f"video{join.picture_ending(settings.encoder)}"
        with writer.VideoWriter(encoded, info, settings, plan.duration) as video:
            for frame in clip.frames_for(plan):                         # exactly len(plan) frames
                video.write(frame.rgb, frame.time, frame.fine)
        mux.mux(encoded, audio, target, output, plan.times, plan.duration, index=index, overwrite=overwrite)

Times are seconds as fractions from the clip's first frame, whole ticks of ``info.time_base``.
"""
