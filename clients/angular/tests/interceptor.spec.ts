import {
  HttpClient,
  HttpContext,
  HttpErrorResponse,
  HttpHeaders,
  HttpInterceptorFn,
  HttpParams,
  provideHttpClient,
  withInterceptors,
} from '@angular/common/http';
import { HttpTestingController, provideHttpClientTesting, TestRequest } from '@angular/common/http/testing';
import { TestBed } from '@angular/core/testing';
import { Observable, retry } from 'rxjs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import {
  IDEMPOTENCY_KEY,
  idempotencyInterceptor,
  IdempotencyOptions,
  provideIdempotency,
  WITHOUT_IDEMPOTENCY,
} from '../src';

const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const PROBLEM = { 'Content-Type': 'application/problem+json' };

let http: HttpClient;
let network: HttpTestingController;

/** Without options where these are null. */
function configure(options: IdempotencyOptions | null = {}, interceptors: HttpInterceptorFn[] = [idempotencyInterceptor]) {
  TestBed.configureTestingModule({
    providers: [
      provideHttpClient(withInterceptors(interceptors)),
      provideHttpClientTesting(),
      options ? provideIdempotency({ backoff: 100, backoffMax: 1_000, ...options }) : [],
    ],
  });
  http = TestBed.inject(HttpClient);
  network = TestBed.inject(HttpTestingController);
}

/** What a subscriber has heard so far. */
function heard<T>(source: Observable<T>) {
  const told: { values: T[]; error: unknown; done: boolean } = { values: [], error: undefined, done: false };
  source.subscribe({
    next: (value) => told.values.push(value),
    error: (error: unknown) => (told.error = error),
    complete: () => (told.done = true),
  });
  return told;
}

const attempt = (url = '/payments') => network.expectOne(url);
const keyOf = (attempted: TestRequest) => attempted.request.headers.get('Idempotency-Key');
const lose = (attempted: TestRequest) => attempted.error(new ProgressEvent('error'));
const refuse = (attempted: TestRequest, status: number, headers = {}, body: object | string = {}) =>
  attempted.flush(body, { status, statusText: 'Refused', headers });

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'] });
  vi.spyOn(Math, 'random').mockReturnValue(1);
});

afterEach(() => {
  network.verify();
  vi.useRealTimers();
});

describe('the key', () => {
  it('is one for each logical request, made anew for the next', () => {
    configure();
    heard(http.post('/payments', { amount: 42 }));
    heard(http.patch('/payments', { amount: 42 }));

    const keys = network.match('/payments').map(keyOf);

    expect(keys).toEqual([expect.stringMatching(UUID4), expect.stringMatching(UUID4)]);
    expect(new Set(keys).size).toBe(2);
  });

  it('stays the same on each attempt', () => {
    configure();
    const told = heard(http.post('/payments', { amount: 42 }));
    const keys = new Set<string | null>();
    for (const wait of [100, 200, 400]) {
      const lost = attempt();
      keys.add(keyOf(lost));
      lose(lost);
      vi.advanceTimersByTime(wait);
    }
    const last = attempt();
    keys.add(keyOf(last));
    last.flush({ charge: 1 });

    expect(keys.size).toBe(1);
    expect(told).toEqual({ values: [{ charge: 1 }], error: undefined, done: true });
  });

  it('stays the same when the caller retries around HttpClient', () => {
    configure({ attempts: 1 });
    const told = heard(http.post('/payments', { amount: 42 }).pipe(retry(2)));

    const [first, second, third] = [0, 1, 2].map(() => {
      const attempted = attempt();
      lose(attempted);
      return keyOf(attempted);
    });

    expect(first).toMatch(UUID4);
    expect([second, third]).toEqual([first, first]);
    expect(told.error).toBeInstanceOf(HttpErrorResponse);
  });

  it('stays the same when an interceptor before ours clones the request on each retry', () => {
    let round = 0;
    const signIn: HttpInterceptorFn = (request, next) =>
      next(request.clone({ setHeaders: { Authorization: `Bearer ${round++}` } }));
    configure({ attempts: 1 }, [signIn, idempotencyInterceptor]);
    heard(http.post('/payments', { amount: 42 }).pipe(retry(1)));

    const [first, second] = [0, 1].map(() => {
      const attempted = attempt();
      lose(attempted);
      return attempted;
    });

    expect(first && keyOf(first)).toMatch(UUID4);
    expect(second && keyOf(second)).toBe(first && keyOf(first));
    expect(second?.request.headers.get('Authorization')).toBe('Bearer 1');
  });

  it('stays the same when a template subscribes twice to one observable', () => {
    configure();
    const paid = http.post('/payments', { amount: 42 });
    heard(paid);
    heard(paid);

    const keys = network.match('/payments').map(keyOf);

    expect(keys.length).toBe(2);
    expect(new Set(keys).size).toBe(1);
  });

  it.each([
    ['a context', { context: new HttpContext() }],
    ['params', { params: new HttpParams({ fromObject: { shop: 1 } }) }],
  ])('is not shared by requests that share %s', (_, options) => {
    configure();
    heard(http.post('/payments', { amount: 42 }, options));
    heard(http.post('/payments', { amount: 42 }, options));

    const keys = network.match(() => true).map(keyOf);

    expect(new Set(keys).size).toBe(2);
  });

  it('is the one of the header, then of the context, where the caller gave it', () => {
    configure();
    const context = new HttpContext().set(IDEMPOTENCY_KEY, 'of-the-context');
    heard(http.post('/one', null, { headers: { 'idempotency-key': 'of-the-header' }, context }));
    heard(http.post('/two', null, { context }));
    heard(http.put('/three', null, { context }));

    for (const [url, key] of [['/one', 'of-the-header'], ['/two', 'of-the-context'], ['/three', 'of-the-context']]) {
      const first = attempt(url);
      lose(first);
      vi.advanceTimersByTime(100);
      expect([keyOf(first), keyOf(attempt(url))]).toEqual([key, key]);
    }
  });

  it('can be quoted, and stand in another header', () => {
    configure({ quoted: true, header: 'X-Key' });
    heard(http.post('/payments', null));

    expect(attempt().request.headers.get('X-Key')).toMatch(/^"[0-9a-f-]{36}"$/);
  });
});

describe('what is left alone', () => {
  it('is a request that opted out', () => {
    configure();
    const told = heard(http.post('/payments', null, { context: new HttpContext().set(WITHOUT_IDEMPOTENCY, true) }));
    const sent = attempt();
    lose(sent);

    expect(keyOf(sent)).toBeNull();
    expect(told.error).toBeInstanceOf(HttpErrorResponse);
  });

  it('is what the options exclude', () => {
    configure({ appliesTo: ({ url }) => url.startsWith('/') });
    heard(http.post('https://maps.test/pins', null));
    const sent = attempt('https://maps.test/pins');
    lose(sent);

    expect(keyOf(sent)).toBeNull();
  });

  it('is a method without a key that HTTP does not call idempotent', () => {
    configure({ methods: ['PATCH'] });
    const told = heard(http.post('/payments', null));
    refuse(attempt(), 503);

    expect(told.error).toMatchObject({ status: 503 });
  });

  it('is a failure of another interceptor', () => {
    const broken = new Error('no session');
    const failing: HttpInterceptorFn = () => new Observable((subscriber) => subscriber.error(broken));
    configure({}, [idempotencyInterceptor, failing]);

    expect(heard(http.post('/payments', null)).error).toBe(broken);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('another attempt', () => {
  it.each([425, 429, 500, 502, 503, 504])('follows a %d', (status) => {
    configure();
    const told = heard(http.post('/payments', null));
    refuse(attempt(), status);
    vi.advanceTimersByTime(100);
    attempt().flush({ charge: 1 });

    expect(told.values).toEqual([{ charge: 1 }]);
  });

  it.each([400, 401, 402, 403, 404, 409, 412, 422, 501])('does not follow a %d', (status) => {
    configure();
    const told = heard(http.post('/payments', null));
    refuse(attempt(), status);
    vi.runAllTimers();

    expect(told.error).toMatchObject({ status });
  });

  it.each(['request-in-progress', 'claim-lost', 'seat-held-by-another'])('follows %s that says when', (slug) => {
    configure();
    const told = heard(http.post('/payments', null));
    refuse(attempt(), 409, { ...PROBLEM, 'Retry-After': '3' }, { type: `urn:flask-idempotency:${slug}` });

    vi.advanceTimersByTime(2_999);
    network.expectNone('/payments');
    vi.advanceTimersByTime(1);
    attempt().flush('1');

    expect(told.done).toBe(true);
  });

  it.each(['request-in-progress', 'outcome-unknown', 'response-not-kept'])('does not follow %s without', (slug) => {
    configure();
    const told = heard(http.post('/payments', null));
    refuse(attempt(), 409, PROBLEM, { type: `urn:flask-idempotency:${slug}` });
    vi.runAllTimers();

    expect(told.error).toMatchObject({ status: 409 });
  });

  it('comes 20 times within a minute, from a tenth of a second up to two apart, unless told otherwise', () => {
    configure(null);
    const told = heard(http.post('/payments', null));
    for (const wait of [100, 200, 400, 800, 1_600, ...Array<number>(14).fill(2_000)]) {
      lose(attempt());
      vi.advanceTimersByTime(wait - 1);
      network.expectNone('/payments');
      vi.advanceTimersByTime(1);
    }
    lose(attempt());

    expect(told.error).toBeInstanceOf(HttpErrorResponse);
  });

  it('does not follow a replayed failure, which will not change', () => {
    configure();
    const told = heard(http.post('/payments', null));
    refuse(attempt(), 500, { 'Idempotent-Replayed': 'true' });
    vi.runAllTimers();

    expect(told.error).toMatchObject({ status: 500 });
  });

  it('follows a failed GET, without a key', () => {
    configure();
    heard(http.get('/payments'));
    lose(attempt());
    vi.advanceTimersByTime(100);

    expect(keyOf(attempt())).toBeNull();
  });

  it('follows a silence, which ends the attempt', () => {
    configure({ timeout: 5_000 });
    heard(http.post('/payments', null));
    const silent = attempt();

    vi.advanceTimersByTime(5_000);
    expect(silent.cancelled).toBe(true);
    vi.advanceTimersByTime(100);

    expect(keyOf(attempt())).toBe(keyOf(silent));
  });

  it('comes after as long as the server asks for, as a date by its own clock', () => {
    configure();
    heard(http.post('/payments', null));
    refuse(attempt(), 503, {
      'Date': 'Tue, 01 Jan 2030 12:00:00 GMT',
      'Retry-After': 'Tue, 01 Jan 2030 12:00:07 GMT',
    });

    vi.advanceTimersByTime(6_999);
    network.expectNone('/payments');
    vi.advanceTimersByTime(1);
    attempt();
  });

  it('carries the body as it was at first', () => {
    configure();
    const form = { amount: 42 };
    heard(http.post('/payments', form));
    lose(attempt());
    form.amount = 99;
    vi.advanceTimersByTime(100);

    expect(attempt().request.body).toEqual({ amount: 42 });
  });
});

describe('the end', () => {
  it('comes with the last answer, once the attempts are used up', () => {
    configure({ attempts: 3 });
    const told = heard(http.post('/payments', null));
    for (const status of [503, 502, 500]) {
      refuse(attempt(), status);
      vi.advanceTimersByTime(1_000);
    }

    expect(told.error).toMatchObject({ status: 500 });
  });

  it('comes at once where the next wait would end past the deadline', () => {
    configure({ deadline: 60_000 });
    const told = heard(http.post('/payments', null));
    refuse(attempt(), 503, { 'Retry-After': '60' });

    expect(told.error).toMatchObject({ status: 503 });
  });

  it('comes at the deadline, in the middle of an attempt', () => {
    configure({ deadline: 3_000, timeout: 10_000 });
    const told = heard(http.post('/payments', null));
    const silent = attempt();
    vi.advanceTimersByTime(3_000);

    expect(silent.cancelled).toBe(true);
    expect(told.error).toBeInstanceOf(HttpErrorResponse);
    expect(told.error).toMatchObject({ status: 0, url: '/payments' });
  });

  it('comes when nobody listens any more, in an attempt and in a wait', () => {
    configure();
    const during = http.post('/payments', null).subscribe();
    const sent = attempt();
    during.unsubscribe();
    expect(sent.cancelled).toBe(true);

    const between = http.post('/payments', null).subscribe();
    lose(attempt());
    between.unsubscribe();
    vi.runAllTimers();
    network.expectNone('/payments');
  });

  it('comes before anything is sent, for a body that can be read only once', () => {
    configure();
    const told = heard(http.post('/payments', new ReadableStream()));

    expect(told.error).toMatchObject({ name: 'UnrepeatableBody' });
  });
});

it('takes no option that makes no sense', () => {
  configure();
  expect(() => provideIdempotency({ attempts: 0 })).toThrow(RangeError);
  expect(() => provideIdempotency({ retries: 3 } as IdempotencyOptions)).toThrow(TypeError);
});

it('leaves the headers of the caller as they are', () => {
  configure();
  const headers = new HttpHeaders({ 'X-Trace': '1' });
  heard(http.post('/payments', null, { headers }));

  expect(attempt().request.headers.get('X-Trace')).toBe('1');
  expect(headers.keys()).toEqual(['X-Trace']);
});
